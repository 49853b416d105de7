"""Weights files in the two forms of learned sparsity: detector initialization and conversion."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope

from backbones import build_backbone, build_classifier
from backbones.sparsity import masked_convs
from backbones.weights import read_weights, save_weights
from backbones.wiring import frcnn_c4, set_init
from compactdet.mmdetection import MODELS
from compactdet.weights.convert_sparse import convert_to_test_form

from detector_leaf import batch, detector_config
from sparse_networks import CONVERTED, assert_same, converted, masked


@pytest.fixture(scope='module')
def masked_file(tmp_path_factory: Any, weights_info: Any) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'masked.safetensors'
    info = replace(weights_info, arch='condensenetv2_a')
    save_weights(path, masked('condensenetv2_a').state_dict(), info)
    return path


@pytest.fixture(scope='module')
def converted_file(masked_file: Path) -> Path:
    path = masked_file.with_name('converted.safetensors')
    assert convert_to_test_form(masked_file, path) == 'condensenetv2_a'
    return path


@pytest.mark.parametrize('detector', ['frcnn_c4', 'frcnn_fpn', 'retinanet_fpn'])
@pytest.mark.parametrize('form', ['masked', 'converted'])
def test_a_detector_is_fine_tuned_in_both_forms(
    detector: str, form: str, masked_file: Path, converted_file: Path, tmp_path: Path
) -> None:
    file = masked_file if form == 'masked' else converted_file
    with DefaultScope.overwrite_default_scope('mmdet'):
        cfg = detector_config(
            tmp_path, detector, f"{detector}('condensenetv2_a', num_classes=2, init={str(file)!r})"
        )
        model = MODELS.build(cfg.model)
        model.init_weights()
        model.train()
        found = masked_convs(model)
        assert len(found) == (40 if form == 'masked' else 0)
        parts = {name.split('.stage')[0] for name in found}
        if detector == 'frcnn_c4' and found:
            assert parts == {'backbone', 'roi_head.shared_head'}
        data = model.data_preprocessor(batch(2), training=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in trained.values())
    convs = [name for name in trained if '.lgc.conv' in name or '.sfr.conv' in name]
    assert len(convs) == 40
    for name, layer in found.items():
        dropped = layer.dealt(torch.ones_like(layer.weight))[0] * ~layer.dealt(layer.weight)[1]
        assert (layer.weight.grad[dropped.reshape(layer.weight.shape) == 1] == 0).all(), name


def test_initial_weights_set_the_form(converted_file: Path) -> None:
    model = frcnn_c4('condensenetv2_a', num_classes=2, init=None)
    assert model['backbone']['conventions']['sparsity'] == 'masked'
    set_init(model, str(converted_file))
    assert model['backbone']['conventions']['sparsity'] == 'converted'
    assert model['roi_head']['shared_head']['conventions']['sparsity'] == 'converted'


# The tool


def test_tool_converts_a_weights_file(masked_file: Path, run_tool: Any, tmp_path: Path) -> None:
    out = tmp_path / 'out.safetensors'
    status, printed, err = run_tool('convert_sparse', masked_file, '--out', out)
    assert (status, err) == (0, '')
    assert printed == f'{out}: condensenetv2_a, test-time form\n'
    before, info_before = read_weights(masked_file)
    after, info = read_weights(out)
    assert info.conventions == replace(info_before.conventions, sparsity='converted')
    assert info.source == 'a test; converted to the test-time form'
    assert info.pretraining == info_before.pretraining
    with torch.no_grad():
        model = build_classifier('condensenetv2_a', 10).eval()
        model.load_state_dict(before)
        form = build_classifier('condensenetv2_a', 10, conventions=asdict(info.conventions)).eval()
        form.load_state_dict(after)
        assert_same(form, model)
    assert out.stat().st_size < 0.7 * masked_file.stat().st_size


def test_tool_halves_a_classifier_only_with_the_option(
    run_tool: Any, weights_info: Any, tmp_path: Path
) -> None:
    file, full, half = (tmp_path / f'{name}.safetensors' for name in ('masked', 'full', 'half'))
    save_weights(file, masked('condensenet_a').state_dict(), replace(weights_info, arch='condensenet_a'))
    assert run_tool('convert_sparse', file, '--out', full)[0] == 0
    assert run_tool('convert_sparse', file, '--out', half, '--half-classifier')[0] == 0
    assert read_weights(full)[0]['head.fc.weight'].shape == (10, 672)
    weights, info = read_weights(half)
    assert weights['head.fc.weight'].shape == (10, 336)
    assert (weights_info.pretraining.top1, info.pretraining.top1) == (0.1, None)  # its outputs changed
    form = build_classifier('condensenet_a', 10, conventions=asdict(info.conventions))
    form.load_state_dict(weights)


def test_tool_converts_a_detector_checkpoint(run_tool: Any, tmp_path: Path) -> None:
    source, out = tmp_path / 'epoch_3.pth', tmp_path / 'out.pth'
    model = masked('condensenetv2_a')
    inputs = f'unchanged text, {build_backbone("condensenetv2_a").conventions}'
    state_dict = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    checkpoint = dict(
        state_dict=state_dict, meta=dict(epoch=3, inputs=inputs), optimizer={}, message_hub={}
    )
    torch.save(checkpoint, source)
    status, printed, err = run_tool('convert_sparse', source, '--out', out)
    assert (status, err) == (0, '')
    assert printed == f'{out}: detector checkpoint, test-time form\n'
    written = torch.load(out, weights_only=True)
    assert written.keys() == {'state_dict', 'meta'}
    conventions = build_backbone('condensenetv2_a', conventions=CONVERTED).conventions
    assert written['meta'] == dict(epoch=3, inputs=f'unchanged text, {conventions}')
    expected = converted(model).state_dict()
    assert written['state_dict'].keys() == {f'backbone.{key}' for key in expected}
    for key, value in expected.items():
        assert torch.equal(written['state_dict'][f'backbone.{key}'], value)


def test_tool_errors(
    run_tool: Any, weights_info: Any, masked_file: Path, converted_file: Path, tmp_path: Path
) -> None:
    def error(*arguments: object) -> str:
        status, _, err = run_tool('convert_sparse', *arguments)
        assert status == 1
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        assert not out.exists()
        return err

    out, unfinished = tmp_path / 'out.safetensors', tmp_path / 'unfinished.safetensors'
    model = build_classifier('condensenet_a')
    for layer in masked_convs(model).values():
        layer.condense(3)
    save_weights(unfinished, model.state_dict(), replace(weights_info, arch='condensenet_a'))
    message = error(unfinished, '--out', out)
    assert f'{unfinished}: condensing is unfinished: stage' in message
    assert '.lgc: 3 of 7 drops made (and 23 layers more); train on with CondensingHook' in message
    assert 'no layer with a mask' in error(converted_file, '--out', out)
    assert '--half-classifier is only for CondenseNet' in error(
        masked_file, '--out', out, '--half-classifier'
    )
    assert 'is the input file' in error(masked_file, '--out', masked_file)
    assert 'cannot read' in error(tmp_path / 'none.safetensors', '--out', out)
    weights, info = read_weights(masked_file)
    del weights['stage8.0.lgc.conv.drops']
    save_weights(damaged := tmp_path / 'damaged.safetensors', weights, info)
    assert "incomplete: the entry 'stage8.0.lgc.conv.drops' is missing" in error(damaged, '--out', out)
    checkpoint = tmp_path / 'x.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    assert 'needs the weights file' in error(checkpoint, '--out', out, '--half-classifier')
    assert 'stage2.0.lgc: 3 of 7 drops made' in error(checkpoint, '--out', out)
