"""Networks under the names of their authors' code, written from what it computes, for tests of conversion.

They use their own layers throughout: nothing of this suite's networks is in them.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)


def row(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


class HS(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu6(x + 3) / 6


# --- megvii-model/ShuffleNet-Series ---------------------------------------------------------------------


class ShuffleV1Unit(nn.Module):
    def __init__(self, cin: int, cout: int, groups: int, first: bool, stride: int):
        super().__init__()
        mid, self.groups, self.stride = cout // 4, groups, stride
        new = cout - cin if stride == 2 else cout
        self.branch_main_1 = row(
            conv(cin, mid, groups=1 if first else groups),
            nn.BatchNorm2d(mid),
            nn.ReLU(),
            conv(mid, mid, 3, stride, mid),
            nn.BatchNorm2d(mid),
        )
        self.branch_main_2 = row(conv(mid, new, groups=groups), nn.BatchNorm2d(new))

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch_main_1(x)
        if self.groups > 1:  # every groups-th channel makes a group
            y = torch.cat([y[:, g :: self.groups] for g in range(self.groups)], 1)
        y = self.branch_main_2(y)
        if self.stride == 1:
            return F.relu(x + y)
        return torch.cat([F.avg_pool2d(x, 3, 2, 1), F.relu(y)], 1)


class MegviiShuffleNetV1(nn.Module):
    def __init__(self, stem: int, width: int, groups: int):
        super().__init__()
        self.first_conv = row(conv(3, stem, 3, 2), nn.BatchNorm2d(stem), nn.ReLU())
        units, before = [], stem
        for stage, depth in enumerate((4, 8, 4)):
            for i in range(depth):
                cout = width * 2**stage
                units.append(ShuffleV1Unit(before, cout, groups, stage == i == 0, 1 if i else 2))
                before = cout
        self.features = row(*units)
        self.classifier = row(nn.Linear(before, 1000, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(F.max_pool2d(self.first_conv(x), 3, 2, 1))
        return self.classifier(x.mean((2, 3)))


class SELayer(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.SE_opr = row(
            nn.AdaptiveAvgPool2d(1), conv(c, c // 4), nn.BatchNorm2d(c // 4), nn.ReLU(), conv(c // 4, c)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * F.relu6(self.SE_opr(x) + 3) / 6


class ShuffleV2PlusUnit(nn.Module):
    def __init__(self, cin: int, cout: int, kind: int, stride: int, act: type[nn.Module], se: bool):
        super().__init__()
        self.stride, mid, new = stride, cout // 2, cout - cin
        kernel = {0: 3, 1: 5, 2: 7, 3: 3}[kind]
        if kind == 3:
            main: list[nn.Module] = []
            for a, b, s in ((cin, mid, stride), (mid, mid, 1), (mid, new, 1)):
                main += [conv(a, a, 3, s, a), nn.BatchNorm2d(a), conv(a, b), nn.BatchNorm2d(b), act()]
        else:
            main = [conv(cin, mid), nn.BatchNorm2d(mid), act()]
            main += [conv(mid, mid, kernel, stride, mid), nn.BatchNorm2d(mid)]
            main += [conv(mid, new), nn.BatchNorm2d(new), act()]
        self.branch_main = row(*main, *([SELayer(new)] if se else []))
        if stride == 2:
            self.branch_proj = row(
                conv(cin, cin, kernel, 2, cin),
                nn.BatchNorm2d(cin),
                conv(cin, cin),
                nn.BatchNorm2d(cin),
                act(),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return torch.cat([x[:, 0::2], self.branch_main(x[:, 1::2])], 1)
        return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)


class MegviiShuffleNetV2Plus(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (36, 104, 208, 416)):
        super().__init__()
        kinds = iter([0, 0, 3, 1, 1, 1, 0, 0, 2, 0, 2, 1, 1, 0, 2, 0, 2, 1, 3, 2])
        self.first_conv = row(conv(3, 16, 3, 2), nn.BatchNorm2d(16), HS())
        units, before = [], 16
        for stage, (width, depth) in enumerate(zip(widths, (4, 4, 8, 4), strict=True)):
            for i in range(depth):
                cin, stride = (before // 2, 1) if i else (before, 2)
                act = HS if stage else nn.ReLU
                units.append(ShuffleV2PlusUnit(cin, width, next(kinds), stride, act, stage >= 2))
                before = width
        self.features = row(*units)
        self.conv_last = row(conv(before, 1280), nn.BatchNorm2d(1280), HS())
        self.LastSE = SELayer(1280)
        self.fc = row(nn.Linear(1280, 1280, bias=False), HS())
        self.classifier = row(nn.Linear(1280, 1000, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_last(self.features(self.first_conv(x))).mean((2, 3), keepdim=True)
        return self.classifier(self.fc(self.LastSE(x).flatten(1)))


# --- ShichenLiu/CondenseNet and jianghaojun/CondenseNetV2 -------------------------------------------------


class Masked(nn.Module):
    """Their LGC (``dealt=0``) and SFR (``dealt=1``) in training, after ``drops`` drops at random places."""

    def __init__(self, cin: int, cout: int, groups: int, act: nn.Module, dealt: int, drops: int):
        super().__init__()
        self.norm, self.act, self.conv = nn.BatchNorm2d(cin), act, conv(cin, cout)
        mask, candidates = torch.ones(cout, cin, 1, 1), (cin, cout)[dealt]
        for g in range(groups):
            gone = torch.randperm(candidates)[: drops * candidates // groups]
            if dealt:
                mask[gone, g::groups] = 0
            else:
                mask[g::groups, gone[:, None]] = 0
        self.register_buffer('_count', torch.full((1,), drops * candidates // groups))
        self.register_buffer('_stage', torch.full((1,), drops))
        self.register_buffer('_mask', mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.act(self.norm(x)), self.conv.weight * self._mask)


class IndexedLGC(nn.Module):
    def __init__(self, cin: int, cout: int, groups: int, act: nn.Module):
        super().__init__()
        self.norm, self.act, self.groups = nn.BatchNorm2d(cin), act, groups
        self.conv = conv(cin, cout, groups=groups)
        self.register_buffer('index', torch.randint(cin, (cin,)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.act(self.norm(x[:, self.index])))
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class IndexedSFR(nn.Module):
    def __init__(self, cin: int, cout: int, groups: int, act: nn.Module):
        super().__init__()
        self.norm, self.act, self.groups = nn.BatchNorm2d(cin), act, groups
        self.conv = conv(cin, cout, groups=groups)
        self.register_buffer('index', F.one_hot(torch.randint(cout, (cout,)), cout).float())

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(x))
        x = self.conv(torch.cat([x[:, g :: self.groups] for g in range(self.groups)], 1))
        return torch.einsum('nihw,io->nohw', x, self.index)


class SE(nn.Module):
    def __init__(self, c: int, inner: int):
        super().__init__()
        self.fc = row(
            nn.Linear(c, inner, bias=False), nn.ReLU(), nn.Linear(inner, c, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class DenseLayer(nn.Module):
    def __init__(
        self, cin: int, k: int, groups: int, act: type[nn.Module], drops: int | None, v2: bool, se: bool
    ):
        super().__init__()
        if drops is None:
            self.conv_1: nn.Module = IndexedLGC(cin, 4 * k, groups, act())
        else:
            self.conv_1 = Masked(cin, 4 * k, groups, act(), 0, drops)
        self.conv_2 = nn.Sequential(
            OrderedDict(norm=nn.BatchNorm2d(4 * k), act=act(), conv=conv(4 * k, k, 3, groups=groups))
        )
        if v2:
            self.sfr = (
                IndexedSFR(k, cin, groups, act())
                if drops is None
                else Masked(k, cin, groups, act(), 1, drops)
            )
        if se:
            self.se = SE(k, k)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv_2(self.conv_1(x))
        if hasattr(self, 'se'):
            new = self.se(new)
        return torch.cat([x + self.sfr(new) if hasattr(self, 'sfr') else x, new], 1)


class Choice(nn.Module):
    """CondenseNet's converted classifier: half of its inputs, in the order of their strength."""

    def __init__(self, c: int, num_classes: int):
        super().__init__()
        self.linear = nn.Linear(c // 2, num_classes)
        self.register_buffer('index', torch.randperm(c)[: c // 2])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, self.index])


class AuthorsCondenseNet(nn.Module):
    """Both papers' networks; ``drops`` None is the test-time form."""

    def __init__(
        self,
        depths: tuple[int, ...],
        growths: tuple[int, ...],
        groups: int,
        *,
        drops: int | None,
        wide: int = 0,
        num_classes: int = 1000,
    ):
        super().__init__()
        c = 2 * growths[0]
        stride = 2 if len(depths) > 3 else 1
        parts: dict[str, nn.Module] = {'init_conv': conv(3, c, 3, stride)}
        for b, (depth, k) in enumerate(zip(depths, growths, strict=True), 1):
            act, layers = (HS if wide and b > 2 else nn.ReLU), OrderedDict()
            for i in range(depth):
                se = bool(wide) and b > 3
                layers[f'denselayer_{i + 1}'] = DenseLayer(c, k, groups, act, drops, bool(wide), se)
                c += k
            parts[f'denseblock_{b}'] = nn.Sequential(layers)
            if b < len(depths):
                parts[f'transition_{b}'] = nn.AvgPool2d(2)
        parts |= {
            'norm_last': nn.BatchNorm2d(c),
            'relu_last': nn.ReLU(),
            'pool_last': nn.AdaptiveAvgPool2d(1),
        }
        if wide:
            parts['se_last'] = SE(c, c // 16)
            self.fc = nn.Linear(c, wide)
        self.features = nn.Sequential(OrderedDict(parts))
        self.classifier = (
            Choice(c, num_classes) if drops is None and not wide else nn.Linear(wide or c, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)
        if hasattr(self, 'fc'):
            x = self.fc(x)
            x = x * F.relu6(x + 3) / 6
        return self.classifier(x)
