"""Weights files of strangers that want to run code, or the memory, or leave half a file: one line each."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from backbones import Conventions, build_classifier
from backbones import weights as w
from backbones.weights import Pretraining, WeightsError, WeightsInfo
from compactdet.errors import UserError
from compactdet.weights.convert import PublishedFacts, convert, convert_file
from compactdet.weights.display import inspect_file
from compactdet.weights.verify import accuracy

ARCH = 'mobilenetv3_small_1x'


class Run:
    """Unpickled, it runs a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def legacy(path: Path, evil: Run) -> None:
    torch.save({'a': torch.zeros(2), 'b': evil}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path, evil: Run) -> None:
    path.write_bytes(pickle.dumps({'state_dict': evil}, protocol=2))


def torchscript(path: Path, evil: Run) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


def object_array(path: Path, evil: Run) -> None:
    with path.open('wb') as file:
        np.savez(file, weights=np.array([evil], dtype=object))


def object_array_alone(path: Path, evil: Run) -> None:
    with path.open('wb') as file:
        np.save(file, np.array([evil], dtype=object))


def tar(path: Path, evil: Run) -> None:
    data = pickle.dumps(evil)
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def bomb(path: Path, evil: Run) -> None:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('x/data.pkl', bytes(5_000_000))
        archive.writestr('x/version', '3')


HOSTILE = {
    legacy: r'contains code \((posix|nt)\.system\), which was not executed',
    plain_pickle: r'(contains code \((posix|nt)\.system\)|is truncated or no PyTorch file)',
    torchscript: r'contains code \(a TorchScript program\), which was not executed',
    object_array: r"is an archive of NumPy's \(\.npz\), which may hold pickled code; not read",
    object_array_alone: r'holds a NumPy array, no named tensors',
    tar: r'is a tar archive .* save the weights again',
    bomb: r'unpacks to more than it is',
}


@pytest.mark.parametrize('make', HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize('name', ['x.pth', 'x.pth.tar'])
@pytest.mark.filterwarnings('ignore:`torch.jit', 'ignore:Detected pickle protocol')
def test_no_code_is_executed_and_the_file_is_named(tmp_path: Path, make: Callable, name: str) -> None:
    path, marker = tmp_path / name, tmp_path / 'executed'
    make(path, Run(f'touch {marker}'))
    for read in (w.load_pickle_safely, lambda path: convert(path, ARCH)):
        with pytest.raises((WeightsError, UserError), match=HOSTILE[make]) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert '\n' not in str(caught.value)
    assert not marker.exists()


# --- safetensors --------------------------------------------------------------------------------------


def header(size: int, text: bytes, data: bytes = b'') -> bytes:
    return struct.pack('<Q', size) + text + data


ODD = {
    'a header of exabytes': header(2**62, b'{}'),
    'a header that is not JSON': header(4, b'{{{{'),
    'a tensor beyond the end': header(
        60, b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}'.ljust(60)[:60]
    ),
    'a header alone': header(2, b'{}'),
    'half a number': b'\x01\x02',
    'nothing': b'',
}


@pytest.mark.parametrize('content', ODD.values(), ids=ODD)
def test_odd_safetensors_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'x.safetensors'
    path.write_bytes(content)
    for read in (w.read_weights, w.read_info, lambda path: convert(path, ARCH)):
        with pytest.raises((WeightsError, UserError), match=r'x\.safetensors') as caught:
            read(path)
        assert len(str(caught.value)) < 500


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / 'x.safetensors'
    os.mkfifo(path)
    for read in (w.read_weights, w.load_pickle_safely, lambda path: convert(path, ARCH)):
        with pytest.raises(
            (WeightsError, UserError), match=r'x\.safetensors: it is a folder, a pipe or a dev'
        ):
            read(path)


@pytest.mark.parametrize('data', [b'\x89HDF\r\n\x1a\n0123', b'{"a": 1}', b'\x08\x07\x12\x07pytorch'])
def test_another_librarys_file_is_named_without_pytorchs_advice(tmp_path: Path, data: bytes) -> None:
    (tmp_path / 'x.h5').write_bytes(data)
    with pytest.raises(WeightsError, match=r'x\.h5 is truncated or no PyTorch file') as caught:
        w.load_pickle_safely(tmp_path / 'x.h5')
    assert 'weights_only' not in str(caught.value)


CLAIMS = {
    'rows without numbers': torch.zeros(10**9, 0),
    'a number alone': torch.tensor(1.0),
    'other columns': torch.zeros(2, 3),
}


@pytest.mark.parametrize('claim', CLAIMS)
def test_a_classifier_that_is_none(tmp_path: Path, claim: str) -> None:
    info = WeightsInfo(arch=ARCH, pretraining=Pretraining(data='x', size=32), source='x')
    path = tmp_path / 'x.safetensors'
    w.save_weights(path, {'head.fc.weight': CLAIMS[claim]}, info)
    inspect_file(str(path))
    with pytest.raises(UserError, match=r'x\.safetensors (has no classifier|does not fit)'):
        accuracy(path, [(tmp_path / 'none.png', 0)])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'conventions': Conventions(bn_eps=-1)}, 'has no form with bn_eps=-1'),
        ({'pretraining': Pretraining(data='x', size=1)}, 'cannot process 1x1 pixels'),
    ],
)
def test_what_its_network_cannot_do(tmp_path: Path, change: dict, words: str) -> None:
    arch = 'shufflenet_0.25x_g1'
    info = WeightsInfo(**{'arch': arch, 'pretraining': Pretraining(data='x'), 'source': 'x'} | change)
    path, image = tmp_path / 'x.safetensors', tmp_path / 'x.png'
    w.save_weights(path, build_classifier(arch, 2).state_dict(), info)
    Image.new('RGB', (40, 40)).save(image)
    with pytest.raises(UserError, match=words):
        accuracy(path, [(image, 0)])


DATA = {'data': 'x', 'recipe': None, 'top1': None, 'top5': None}


@pytest.mark.parametrize(
    'metadata',
    [
        'null',
        '[]',
        '[' * 100_000,
        '{"arch": 1}',
        json.dumps({'arch': 'x', 'pretraining': DATA | {'top1': 'high'}}),
        json.dumps({'arch': 'x', 'pretraining': DATA | {'command': 'rm'}}),
        *(
            json.dumps(
                {'pretraining': DATA, 'preprocessing': {}, 'conventions': {}, 'arch': 'x', 'source': 'x'}
                | odd
            )
            for odd in (
                {'arch': ['x']},
                {'source': '\x1b[31m'},
                {'licence': 1},
                {'pretraining': {'data': 1}},
            )
        ),
    ],
    ids=['null', 'list', 'deep', 'number', 'word', 'more', 'arch', 'escape', 'licence', 'data'],
)
def test_odd_metadata_is_one_line(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / 'x.safetensors'
    path.write_bytes(safetensors.torch.save({'a': torch.zeros(2)}, {'compactdet': metadata}))
    with pytest.raises(WeightsError, match=r'x\.safetensors: its metadata does not fit this version'):
        w.read_weights(path)


def test_an_unknown_network_is_one_line(run_tool: Callable, tmp_path: Path) -> None:
    info = WeightsInfo(arch='menet_9', pretraining=Pretraining(data='x'), source='x')
    w.save_weights(tmp_path / 'x.safetensors', {'a': torch.zeros(1)}, info)
    status, _, err = run_tool('weights', 'inspect', tmp_path / 'x.safetensors')
    assert (status, err.count('\n')) == (1, 1)
    assert "unknown arch 'menet_9'" in err


# --- tensors that are no weights -------------------------------------------------------------------------


@pytest.fixture(scope='module')
def small() -> dict[str, torch.Tensor]:
    return torchvision.models.mobilenet_v3_small().state_dict()


KEY = 'classifier.3.bias'


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda v: torch.full_like(v, torch.nan), '1 entries not finite: head.fc.bias'),
        (
            lambda v: v.to_sparse(),
            'unsupported weights: 1 entries sparse, quantized or complex: classifier.3.bias',
        ),
        (lambda v: v.to(torch.complex64), 'unsupported weights'),
        (lambda v: torch.zeros(1).expand(10**12), r'misshapen: head.fc.bias \(1000000000000,\)'),
        (lambda v: v.to(torch.int8), '1 entries not floating-point: head.fc.bias'),
    ],
    ids=['nan', 'sparse', 'complex', 'endless', 'integers'],
)
@pytest.mark.filterwarnings('ignore:Validating sparse tensor')
def test_tensors_that_cannot_serve_are_named(
    small: dict, tmp_path: Path, change: Callable, words: str
) -> None:
    torch.save(small | {KEY: change(small[KEY])}, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=words):
        convert(tmp_path / 'x.pth', ARCH)


def test_half_precision_becomes_single(small: dict, tmp_path: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in small.items()}
    torch.save(halves, tmp_path / 'x.pth')
    state, _ = convert(tmp_path / 'x.pth', ARCH)
    assert {v.dtype for k, v in state.items() if not w.is_counter(k)} == {torch.float32}


# --- the output ------------------------------------------------------------------------------------------


@pytest.fixture
def published(small: dict, tmp_path: Path) -> Path:
    torch.save(small, tmp_path / 'x.pth')
    return tmp_path / 'x.pth'


def test_the_folder_is_made_and_a_link_stays_one(published: Path, tmp_path: Path) -> None:
    out = tmp_path / 'a' / 'b' / 'x.safetensors'
    convert_file(published, ARCH, out)
    link = tmp_path / 'link.safetensors'
    link.symlink_to(out)
    before = out.stat().st_ino
    convert_file(published, ARCH, link, PublishedFacts(top1=50))
    assert link.is_symlink()
    assert w.read_info(out).pretraining.top1 == 50
    assert out.stat().st_ino != before  # a new file in the old one's place, never one being written
    assert sorted(p.name for p in out.parent.iterdir()) == ['x.safetensors']


def test_a_link_to_the_file_itself_is_refused(published: Path, tmp_path: Path) -> None:
    before = published.read_bytes()
    (tmp_path / 'same').symlink_to(published)
    with pytest.raises(UserError, match='is the input file; give another file name'):
        convert_file(published, ARCH, tmp_path / 'same')
    assert published.read_bytes() == before


def test_a_file_that_does_not_convert_leaves_the_one_that_is_there(published: Path, tmp_path: Path) -> None:
    out = tmp_path / 'x.safetensors'
    convert_file(published, ARCH, out)
    before = out.read_bytes()
    with pytest.raises(UserError, match='does not fit mobilenetv3_large_1x'):
        convert_file(published, 'mobilenetv3_large_1x', out)
    assert out.read_bytes() == before
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match=r'cannot write .*folder'):
        convert_file(published, ARCH, tmp_path / 'folder')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['folder', 'x.pth', 'x.safetensors']
