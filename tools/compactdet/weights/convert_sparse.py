"""Convert weights from the training form of learned sparsity to the test-time form."""

import io
from dataclasses import replace
from pathlib import Path

import torch

from backbones import get_arch
from backbones.base import family_of
from backbones.networks.condensenet import CondenseNet, halved_classifier
from backbones.sparsity import CondensingError, converted_state_dict
from backbones.weights import file_sha256, read_weights, save_weights
from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.training.checkpoints import read_checkpoint
from compactdet.weights.convert import check_output

# Form of the network in the metadata of a detector checkpoint, written by
# `compactdet.training.model_checks.describe_inputs`.
MASKED, CONVERTED = "sparsity='masked'", "sparsity='converted'"


def convert_to_test_form(file: str | Path, out: str | Path, *, half_classifier: bool = False) -> str:
    """Convert the weights file of a classifier or the checkpoint of a detector.

    Args:
        file: A weights file of the suite (.safetensors), or a PyTorch checkpoint. Weights and metadata of a
            checkpoint are kept; its training state is dropped, because it does not match the other form.
        out: The file to write, of the same kind.
        half_classifier: Whether to keep only the stronger half of the inputs of a CondenseNet's classifier.
            This changes its outputs, so the accuracy is not copied.

    Returns:
        The arch of a weights file, or 'detector checkpoint'.

    Raises:
        WeightsError: The file cannot be read, is not in the training form, or has unfinished condensing.
        UserError: The result cannot be written, or there is no classifier to halve.
    """
    check_output(out, file)
    try:
        if Path(file).suffix == '.safetensors':
            return _convert_weights(file, out, half_classifier)
        if half_classifier:
            raise UserError(
                f'{file}: --half-classifier needs the weights file (.safetensors) of a classifier'
            )
        return _convert_checkpoint(file, out)
    except CondensingError as error:
        raise CondensingError(f'{file}: {error}') from error
    except KeyError as error:
        raise CondensingError(f'{file} is incomplete: the entry {error} is missing') from error


def _convert_weights(file: str | Path, out: str | Path, half_classifier: bool) -> str:
    state_dict, info = read_weights(file)
    converted = converted_state_dict(state_dict)
    pretraining = info.pretraining
    if half_classifier:
        if not issubclass(family_of(get_arch(info.arch)), CondenseNet):
            raise UserError(f'{file} contains {info.arch}; --half-classifier is only for CondenseNet')
        converted = halved_classifier(converted)
        pretraining = replace(pretraining, top1=None, top5=None)
    info = replace(
        info,
        pretraining=pretraining,
        conventions=replace(info.conventions, sparsity='converted'),
        source=f'{info.source}; converted to the test-time form',
        source_sha256=file_sha256(file),
    )
    save_weights(out, converted, info)
    return info.arch


def _convert_checkpoint(file: str | Path, out: str | Path) -> str:
    checkpoint = read_checkpoint(file)
    meta = checkpoint['meta']
    if 'inputs' in meta:
        meta['inputs'] = meta['inputs'].replace(MASKED, CONVERTED)
    data = io.BytesIO()
    torch.save({'state_dict': converted_state_dict(checkpoint['state_dict']), 'meta': meta}, data)
    write_whole(out, data.getvalue())
    return 'detector checkpoint'
