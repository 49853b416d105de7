"""Weights files: reading, writing, initializing a network, checking its preprocessing."""

from backbones.weights.file import (
    Pretraining,
    WeightsInfo,
    classifier_shapes,
    convert_command,
    is_counter,
    num_classes_of,
    read_info,
    read_weights,
    save_weights,
)
from backbones.weights.initializer import ClassifierWeights, LoadedFrom, how_to_get, listing, misfits
from backbones.weights.preprocessing_check import PreprocessingCheck, check_preprocessing, preprocessing_of
from backbones.weights.safe_files import WeightsError, check_file, file_sha256, load_pickle_safely

__all__ = [
    'ClassifierWeights',
    'LoadedFrom',
    'PreprocessingCheck',
    'Pretraining',
    'WeightsError',
    'WeightsInfo',
    'check_file',
    'check_preprocessing',
    'classifier_shapes',
    'convert_command',
    'file_sha256',
    'how_to_get',
    'is_counter',
    'listing',
    'load_pickle_safely',
    'misfits',
    'num_classes_of',
    'preprocessing_of',
    'read_info',
    'read_weights',
    'save_weights',
]
