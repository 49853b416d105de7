"""Learned sparsity: layers, conversion to the test-time form, and the hook that drops connections."""

from backbones.sparsity.condensing_hook import CondensingHook, drops_due, group_lasso
from backbones.sparsity.conversion import converted_state_dict, masked_convs
from backbones.sparsity.layers import (
    CondensingError,
    InputMaskedConv2d,
    LearnedGroupConv,
    MaskedConv2d,
    OutputMaskedConv2d,
    SparseFeatureReactivation,
)

__all__ = [
    'CondensingError',
    'CondensingHook',
    'InputMaskedConv2d',
    'LearnedGroupConv',
    'MaskedConv2d',
    'OutputMaskedConv2d',
    'SparseFeatureReactivation',
    'converted_state_dict',
    'drops_due',
    'group_lasso',
    'masked_convs',
]
