"""Networks of the libraries that have names of their own in the suite: those with which the papers compare,
and later compact networks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """A named network of a library; fields as in ``Arch``."""

    source: str
    paper: str
    paper_mflops: float | None = None
    paper_params_m: float | None = None
    cost_note: str = ''


ATTENTION = 'the products of attention, which have no weights, are not counted here'
ROUNDED = 'printed in tenths of a billion multiply-adds'
FEW_DIGITS = 'printed with two digits'
UNKNOWN = 'the layers that timm has cost less than printed; the reason is not known'

ALIASES = {
    'alexnet': Alias('torchvision:alexnet', 'arXiv:1404.5997; cost as in arXiv:1707.01083, Table 6', 720),
    'vgg16': Alias(
        'torchvision:vgg16',
        'arXiv:1409.1556, Table 1, D; cost as in arXiv:1803.09127, Table IV',
        15300,
        cost_note='printed without the fully connected layers',
    ),
    'googlenet': Alias(
        'torchvision:googlenet',
        'arXiv:1409.4842, Table 1; cost as in arXiv:1803.09127, Table IV',
        1550,
        cost_note='torchvision has 3x3 convolutions where the paper has 5x5; arXiv:1707.01083 prints 1500',
    ),
    'squeezenet1_0': Alias(
        'torchvision:squeezenet1_0',
        'arXiv:1602.07360, Table 1; cost as in arXiv:1707.01083, Table 6',
        833,
        cost_note='printed for images of 227x227',
    ),
    'resnet101': Alias(
        'torchvision:resnet101', 'arXiv:1512.03385, Table 1; cost as in arXiv:1803.09127, section I', 7800
    ),
    'regnetx_200mf': Alias('timm:regnetx_002', 'arXiv:2003.13678; cost as in CondenseNetV2', 200, 2.7),
    'regnetx_400mf': Alias('timm:regnetx_004', 'arXiv:2003.13678; cost as in CondenseNetV2', 400, 5.2),
    'mnasnet_a1': Alias('timm:semnasnet_100', 'arXiv:1807.11626, Table 1', 312, 3.9),
    'proxylessnas_mobile': Alias(
        'pytorchcv:proxylessnas_mobile', 'arXiv:1812.00332; cost as in CondenseNetV2', 320, 4.1
    ),
    'nasnet_a_mobile': Alias('pytorchcv:nasnet_4a1056', 'arXiv:1707.07012, Table 3', 564, 5.3),
    # Later networks, from timm.
    'regnety_200mf': Alias('timm:regnety_002', 'arXiv:2003.13678', 200, 3.2, cost_note=FEW_DIGITS),
    'regnety_400mf': Alias('timm:regnety_004', 'arXiv:2003.13678', 400, 4.3, cost_note=FEW_DIGITS),
    'mobilenetv4_conv_small': Alias(
        'timm:mobilenetv4_conv_small', 'arXiv:2404.10518', 200, 3.8, cost_note=ROUNDED
    ),
    'mobilenetv4_conv_medium': Alias(
        'timm:mobilenetv4_conv_medium',
        'arXiv:2404.10518',
        1000,
        9.2,
        cost_note=f"{ROUNDED}; timm's has 0.5 million parameters more",
    ),
    'fasternet_t0': Alias('timm:fasternet_t0', 'arXiv:2303.03667', 340, 3.9, cost_note=FEW_DIGITS),
    'fasternet_t1': Alias('timm:fasternet_t1', 'arXiv:2303.03667', 850, 7.6),
    'starnet_s1': Alias('timm:starnet_s1', 'arXiv:2403.19967', 425, 2.9, cost_note=FEW_DIGITS),
    'starnet_s2': Alias('timm:starnet_s2', 'arXiv:2403.19967', 547, 3.7),
    'starnet_s3': Alias('timm:starnet_s3', 'arXiv:2403.19967', 757, 5.8),
    'starnet_s4': Alias('timm:starnet_s4', 'arXiv:2403.19967', 1075, 7.5, cost_note=UNKNOWN),
    'repvit_m0.9': Alias('timm:repvit_m0_9', 'arXiv:2307.09283', 800, 5.1, cost_note=ROUNDED),
    'efficientvit_b0': Alias('timm:efficientvit_b0', 'arXiv:2205.14756'),
    'mobileone_s0': Alias('timm:mobileone_s0', 'arXiv:2206.04040', 275, 2.1, cost_note=FEW_DIGITS),
    'mobileone_s1': Alias('timm:mobileone_s1', 'arXiv:2206.04040', 825, 4.8),
    'ghostnetv2_1x': Alias('timm:ghostnetv2_100', 'arXiv:2211.12905', 167, 6.1),
    'edgenext_xxs': Alias('timm:edgenext_xx_small', 'arXiv:2206.10589', 261, 1.3, cost_note=ATTENTION),
    'lcnet_0.5x': Alias('timm:lcnet_050', 'arXiv:2109.15099', 47, 1.9, cost_note=UNKNOWN),
    'lcnet_1x': Alias('timm:lcnet_100', 'arXiv:2109.15099', 161, 3.0, cost_note=UNKNOWN),
    'mobilevit_xxs': Alias('timm:mobilevit_xxs', 'arXiv:2110.02178', None, 1.3, cost_note=ATTENTION),
}
