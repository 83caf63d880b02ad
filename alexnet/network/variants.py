"""Every AlexNet, one row per layer, each number beside its source.

Marks: [K12] the paper, Krizhevsky, Sutskever and Hinton at NIPS 2012; [CODE12] the program that made its results, its
net 145 (github.com/computerhistory/AlexNet-Source-Code at 2f8b81f); [CAFFE] BVLC's model zoo (github.com/BVLC/caffe
at 9b89154); [TV] torchvision (github.com/pytorch/vision at 29032aa, models/alexnet.py); [ARTICLE] the TensorFlow 1
article, described in docs/article.md; [OWT] the one-tower net of "One weird trick"
(github.com/akrizhevsky/cuda-convnet2 at 3238bf0); [CVGJ] Simon, Rodner and Denzler 2016
(github.com/cvjena/cnn-models, AlexNet_cvgj); [ZOO] bvlcalexnet of the ONNX model zoo (github.com/onnx/models), by the
graph that the onnx package ships (light_bvlc_alexnet.onnx). After SILENT stands what the source does not say, after
DEVIATES where we differ on purpose; the mark behind the word, if any, says whom we follow instead.

Shapes are (C, H, W). Nothing here imports torch: a table is read without it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from alexnet.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Pad:
    """Zeros around a map in pixels: `before` on the left and the top, `after` on the right and the bottom."""

    before: int
    after: int

    def __str__(self) -> str:
        return str(self.before) if self.before == self.after else f"{self.before} before, {self.after} after"


@dataclass(frozen=True, slots=True)
class Normal:
    """Initial values from N(0, std²)."""

    std: float

    def __str__(self) -> str:
        return f"normal {self.std:g}"


@dataclass(frozen=True, slots=True)
class TruncatedNormal:
    """Initial values from N(0, std²), redrawn beyond two `std`: the values' own deviation is 0.8796 `std`."""

    std: float

    def __str__(self) -> str:
        return f"normal {self.std:.6g}, cut at 2 std"


@dataclass(frozen=True, slots=True)
class FanInUniform:
    """Initial values from U(-1/√n, 1/√n), n inputs to each output."""

    def __str__(self) -> str:
        return "uniform ±1/√n"


@dataclass(frozen=True, slots=True)
class He:
    """Initial values from N(0, 2/n), n inputs to each output."""

    def __str__(self) -> str:
        return "normal √(2/n)"


Init = Normal | TruncatedNormal | FanInUniform | He


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution to `out` maps; with `groups`=2 each half of them sees one half of the input maps."""

    name: str
    out: int
    kernel: int
    stride: int
    pad: Pad
    groups: int
    init: Init
    bias: float | FanInUniform
    mark: str
    kind: ClassVar[str] = "conv"


@dataclass(frozen=True, slots=True)
class ReLU:
    """max(x, 0)."""

    name: str
    mark: str
    kind: ClassVar[str] = "relu"


@dataclass(frozen=True, slots=True)
class LRN:
    """x · (k + a·Σx²)^-beta over `size` channels of the same tower; a is alpha, or alpha / size with `divide`."""

    name: str
    size: int
    k: float
    alpha: float
    beta: float
    divide: bool
    towers: int
    mark: str
    kind: ClassVar[str] = "lrn"


@dataclass(frozen=True, slots=True)
class WithinMapLRN:
    """x · (k + alpha/size²·Σx²)^-beta over `size`×`size` pixels of the same map, zeros outside counted."""

    name: str
    size: int
    k: float
    alpha: float
    beta: float
    mark: str
    kind: ClassVar[str] = "within_map_lrn"


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Maximum over `kernel`×`kernel` pixels; with `ceil` a last window may hang over the edge."""

    name: str
    kernel: int
    stride: int
    ceil: bool
    mark: str
    kind: ClassVar[str] = "max_pool"


@dataclass(frozen=True, slots=True)
class AdaptivePool:
    """Average to `side`×`side` pixels, whatever the input's size."""

    name: str
    side: int
    mark: str
    kind: ClassVar[str] = "adaptive_pool"


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch normalisation; `scale` adds a learnable factor and shift per channel."""

    name: str
    scale: bool
    momentum: float
    eps: float
    mark: str
    kind: ClassVar[str] = "batch_norm"


@dataclass(frozen=True, slots=True)
class Linear:
    """Fully connected, on the input flattened as C, H, W; `out` None is the number of classes."""

    name: str
    out: int | None
    init: Init
    bias: float | FanInUniform
    mark: str
    kind: ClassVar[str] = "linear"


@dataclass(frozen=True, slots=True)
class Dropout:
    """In training each value is 0 with probability `p`, else divided by 1 - p; nothing at test."""

    name: str
    p: float
    mark: str
    kind: ClassVar[str] = "dropout"


Row = Conv | ReLU | LRN | WithinMapLRN | MaxPool | AdaptivePool | BatchNorm | Linear | Dropout


@dataclass(frozen=True, slots=True)
class Variant:
    """One AlexNet: its layers from the image to the logits, and what its pixels must be.

    A pixel enters as (value · scale - mean) / std, value in 0..255. `mean` "image" is the training set's mean image,
    taken at the crop's own place ("aligned") or at the centre for every crop ("centre"); `mean_crop` is without
    effect for three fixed numbers. `resize` says how an image becomes square before the crop.
    """

    name: str
    side: int
    colour: Literal["RGB", "BGR"]
    scale: float
    mean: Literal["image"] | tuple[float, float, float]
    mean_crop: Literal["centre", "aligned"]
    std: tuple[float, float, float]
    resize: Literal["shorter", "warp"]
    source: str
    layers: tuple[Row, ...]


UNIT = (1.0, 1.0, 1.0)
ZERO = (0.0, 0.0, 0.0)

# Words that several rows need.
K12_DROP = "[K12] 4.2. DEVIATES: kept values are doubled in training; the paper halves all at test"
HS_DROP = "keep .5. DEVIATES: kept values are doubled in training; the program halves all at test"
HS_STD = ("DEVIATES std: the program has .01 on unscaled dropout, which is .005 on ours; the gradient doubles with it, "
          "so the same steps would also need lr/4 and weight decay·4 here")  # fmt: skip
CEIL_PAD = "SILENT pad: [CODE12] counts windows by ceil, the last one hangs over by 3 px right and below"
ZOO_INIT = "[ZOO]. SILENT initial values: [CAFFE]"

# A table is read by its columns: one row a line, its words below it.
# fmt: off

ARTICLE = Variant(
    "article", side=224, colour="RGB", scale=1 / 255, mean=ZERO, mean_crop="centre", std=UNIT, resize="shorter",
    source="[ARTICLE] the TensorFlow 1 program as written. SILENT colour, scale and mean: RGB in 0..1, no mean",
    layers=(
        Conv("conv1", 96, 11, stride=4, pad=Pad(3, 4), groups=1, init=TruncatedNormal(1 / 224), bias=0.0,
             mark="[ARTICLE] SAME padding puts the odd zero right and below; std 1/sqrt(224·224); no towers"),
        ReLU("relu1", mark="[ARTICLE]"),
        LRN("norm1", size=11, k=1.0, alpha=1.0, beta=0.5, divide=False, towers=1,
            mark="[ARTICLE] TensorFlow's defaults: depth_radius 5, bias 1, alpha 1, beta .5, the sum not divided"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[ARTICLE] SAME padding, of -inf, right and below"),
        Conv("conv2", 256, 5, stride=1, pad=Pad(2, 2), groups=1, init=TruncatedNormal(96**-0.5), bias=0.0,
             mark="[ARTICLE] std 1/sqrt(96): the channels, not the fan-in of 2400"),
        ReLU("relu2", mark="[ARTICLE]"),
        LRN("norm2", size=11, k=1.0, alpha=1.0, beta=0.5, divide=False, towers=1, mark="[ARTICLE] as norm1"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[ARTICLE] SAME padding"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=TruncatedNormal(256**-0.5), bias=0.0,
             mark="[ARTICLE] std 1/sqrt(256)"),
        ReLU("relu3", mark="[ARTICLE]"),
        Conv("conv4", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=TruncatedNormal(384**-0.5), bias=0.0,
             mark="[ARTICLE] std 1/sqrt(384)"),
        ReLU("relu4", mark="[ARTICLE]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=1, init=TruncatedNormal(384**-0.5), bias=0.0,
             mark="[ARTICLE] std 1/sqrt(384)"),
        ReLU("relu5", mark="[ARTICLE]"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[ARTICLE] SAME padding; the article's pool3"),
        Linear("fc6", 4096, init=TruncatedNormal(12544**-0.5), bias=0.0,
               mark="[ARTICLE] its fc1: 256·7·7 inputs. DEVIATES: flattened as C, H, W; the article as H, W, C"),
        ReLU("relu6", mark="[ARTICLE]"),
        Dropout("drop6", p=0.5, mark="[ARTICLE] keep_prob .5, kept values doubled in training"),
        Linear("fc7", 4096, init=TruncatedNormal(1 / 64), bias=0.0, mark="[ARTICLE] its fc2: std 1/sqrt(4096)"),
        ReLU("relu7", mark="[ARTICLE]"),
        Dropout("drop7", p=0.5, mark="[ARTICLE] keep_prob .5"),
        Linear("fc8", None, init=TruncatedNormal(1 / 64), bias=0.0,
               mark="[ARTICLE] its fc3: std 1/sqrt(4096). DEVIATES: logits; the article returns their softmax"),
    ),
)

PAPER = Variant(
    "paper", side=224, colour="RGB", scale=1.0, mean="image", mean_crop="centre", std=UNIT, resize="shorter",
    source="[K12] the network as the paper describes it. It speaks of 650,000 neurons; counted, they are 659,272 "
           "(its figure 2 has 253,440 where conv1 has 290,400). SILENT mean_crop: [CODE12] the centre for every crop",
    layers=(
        Conv("conv1", 96, 11, stride=4, pad=Pad(0, 3), groups=1, init=Normal(0.01), bias=0.0,
             mark=f"[K12] 3.5, 5. {CEIL_PAD}"),
        ReLU("relu1", mark="[K12] 3.1, 3.5: before the normalisation; [CODE12] has it after the pooling"),
        LRN("norm1", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=False, towers=2,
            mark="[K12] 3.3: alpha times the sum. SILENT towers: [CODE12] each GPU normalises its own 48 maps"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[K12] 3.4. SILENT rounding: [CODE12] ceil, exact here"),
        Conv("conv2", 256, 5, stride=1, pad=Pad(2, 2), groups=2, init=Normal(0.01), bias=1.0,
             mark="[K12] 3.5, 5. SILENT pad: [CODE12] 2"),
        ReLU("relu2", mark="[K12] 3.5"),
        LRN("norm2", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=False, towers=2,
            mark="[K12] 3.3. SILENT towers: [CODE12] each its own 128 maps"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[K12] 3.4. SILENT rounding: [CODE12] ceil, exact here"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.01), bias=0.0,
             mark="[K12] 3.5, 5: sees both towers. SILENT pad: [CODE12] 1"),
        ReLU("relu3", mark="[K12] 3.5"),
        Conv("conv4", 384, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=1.0,
             mark="[K12] 3.5, 5. SILENT pad: [CODE12] 1"),
        ReLU("relu4", mark="[K12] 3.5"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=1.0,
             mark="[K12] 3.5, 5. SILENT pad: [CODE12] 1"),
        ReLU("relu5", mark="[K12] 3.5"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[K12] 3.4. SILENT rounding: [CODE12] ceil, exact here"),
        Linear("fc6", 4096, init=Normal(0.01), bias=1.0, mark="[K12] 3.5, 5"),
        ReLU("relu6", mark="[K12] 3.5"),
        Dropout("drop6", p=0.5, mark=K12_DROP),
        Linear("fc7", 4096, init=Normal(0.01), bias=1.0,
               mark="[K12] 3.5, 5: std as printed, though the paper's dropout leaves its inputs unscaled"),
        ReLU("relu7", mark="[K12] 3.5"),
        Dropout("drop7", p=0.5, mark=K12_DROP),
        Linear("fc8", None, init=Normal(0.01), bias=0.0, mark="[K12] 3.5, 5: std as printed, as fc7"),
    ),
)

CONVNET = Variant(
    "convnet", side=224, colour="RGB", scale=1.0, mean="image", mean_crop="centre", std=UNIT, resize="shorter",
    source="[CODE12] net 145, whose logged errors are the paper's; both towers in one network",
    layers=(
        Conv("conv1", 96, 11, stride=4, pad=Pad(0, 3), groups=1, init=Normal(0.01), bias=0.0,
             mark="[CODE12] padding 0, but windows are counted by ceil: the last hangs over by 3 px right and below"),
        LRN("norm1", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=True, towers=2,
            mark="[CODE12] rnorm1, before the ReLU: scale .0001 is divided by size; minDiv 2; 48 maps a tower"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[CODE12] ceil, exact here"),
        ReLU("relu1", mark="[CODE12] the neuron sits on pool1"),
        Conv("conv2", 256, 5, stride=1, pad=Pad(2, 2), groups=2, init=Normal(0.01), bias=1.0, mark="[CODE12]"),
        ReLU("relu2", mark="[CODE12]"),
        LRN("norm2", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=True, towers=2, mark="[CODE12] rnorm2, as norm1"),
        WithinMapLRN("wmnorm2", size=5, k=1.0, alpha=1e-3, beta=0.75,
                     mark="[CODE12] cnorm2, not in the paper: scale .001 is divided by 5·5; minDiv 1"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[CODE12] ceil, exact here"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.03), bias=0.0,
             mark="[CODE12] sees both towers"),
        ReLU("relu3", mark="[CODE12]"),
        Conv("conv4", 384, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.03), bias=1.0, mark="[CODE12]"),
        ReLU("relu4", mark="[CODE12]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.03), bias=1.0, mark="[CODE12]"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[CODE12] its pool3; ceil, exact here"),
        ReLU("relu5", mark="[CODE12] the neuron sits on pool3"),
        Linear("fc6", 4096, init=Normal(0.01), bias=1.0, mark="[CODE12] fc2048a, fc2048b: each sees both towers"),
        ReLU("relu6", mark="[CODE12]"),
        Dropout("drop6", p=0.5, mark=f"[CODE12] {HS_DROP}"),
        Linear("fc7", 4096, init=Normal(0.005), bias=1.0, mark=f"[CODE12] fc2048ba, fc2048bb. {HS_STD}"),
        ReLU("relu7", mark="[CODE12]"),
        Dropout("drop7", p=0.5, mark=f"[CODE12] {HS_DROP}"),
        Linear("fc8", None, init=Normal(0.005), bias=0.0, mark=f"[CODE12] fc1000. {HS_STD}"),
    ),
)

CAFFE = Variant(
    "caffe", side=227, colour="BGR", scale=1.0, mean="image", mean_crop="aligned", std=UNIT, resize="warp",
    source="[CAFFE] bvlc_alexnet",
    layers=(
        Conv("conv1", 96, 11, stride=4, pad=Pad(0, 0), groups=1, init=Normal(0.01), bias=0.0, mark="[CAFFE]"),
        ReLU("relu1", mark="[CAFFE]"),
        LRN("norm1", size=5, k=1.0, alpha=1e-4, beta=0.75, divide=True, towers=1,
            mark="[CAFFE] alpha divided by size; k by default 1; the window crosses the towers' edge"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[CAFFE] ceil, exact here"),
        Conv("conv2", 256, 5, stride=1, pad=Pad(2, 2), groups=2, init=Normal(0.01), bias=0.1, mark="[CAFFE]"),
        ReLU("relu2", mark="[CAFFE]"),
        LRN("norm2", size=5, k=1.0, alpha=1e-4, beta=0.75, divide=True, towers=1, mark="[CAFFE] as norm1"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[CAFFE] ceil, exact here"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.01), bias=0.0, mark="[CAFFE]"),
        ReLU("relu3", mark="[CAFFE]"),
        Conv("conv4", 384, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=0.1, mark="[CAFFE]"),
        ReLU("relu4", mark="[CAFFE]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=0.1, mark="[CAFFE]"),
        ReLU("relu5", mark="[CAFFE]"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[CAFFE] ceil, exact here"),
        Linear("fc6", 4096, init=Normal(0.005), bias=0.1, mark="[CAFFE]"),
        ReLU("relu6", mark="[CAFFE]"),
        Dropout("drop6", p=0.5, mark="[CAFFE]"),
        Linear("fc7", 4096, init=Normal(0.005), bias=0.1, mark="[CAFFE]"),
        ReLU("relu7", mark="[CAFFE]"),
        Dropout("drop7", p=0.5, mark="[CAFFE]"),
        Linear("fc8", None, init=Normal(0.01), bias=0.0, mark="[CAFFE]"),
    ),
)

CAFFENET = Variant(
    "caffenet", side=227, colour="BGR", scale=1.0, mean="image", mean_crop="aligned", std=UNIT, resize="warp",
    source="[CAFFE] bvlc_reference_caffenet: pooling before normalisation, biases of 1",
    layers=(
        Conv("conv1", 96, 11, stride=4, pad=Pad(0, 0), groups=1, init=Normal(0.01), bias=0.0, mark="[CAFFE]"),
        ReLU("relu1", mark="[CAFFE]"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[CAFFE] before norm1; ceil, exact here"),
        LRN("norm1", size=5, k=1.0, alpha=1e-4, beta=0.75, divide=True, towers=1,
            mark="[CAFFE] after pool1; alpha divided by size; k by default 1; the window crosses the towers' edge"),
        Conv("conv2", 256, 5, stride=1, pad=Pad(2, 2), groups=2, init=Normal(0.01), bias=1.0, mark="[CAFFE]"),
        ReLU("relu2", mark="[CAFFE]"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[CAFFE] before norm2; ceil, exact here"),
        LRN("norm2", size=5, k=1.0, alpha=1e-4, beta=0.75, divide=True, towers=1, mark="[CAFFE] as norm1"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.01), bias=0.0, mark="[CAFFE]"),
        ReLU("relu3", mark="[CAFFE]"),
        Conv("conv4", 384, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=1.0, mark="[CAFFE]"),
        ReLU("relu4", mark="[CAFFE]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=1.0, mark="[CAFFE]"),
        ReLU("relu5", mark="[CAFFE]"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[CAFFE] ceil, exact here"),
        Linear("fc6", 4096, init=Normal(0.005), bias=1.0, mark="[CAFFE]"),
        ReLU("relu6", mark="[CAFFE]"),
        Dropout("drop6", p=0.5, mark="[CAFFE]"),
        Linear("fc7", 4096, init=Normal(0.005), bias=1.0, mark="[CAFFE]"),
        ReLU("relu7", mark="[CAFFE]"),
        Dropout("drop7", p=0.5, mark="[CAFFE]"),
        Linear("fc8", None, init=Normal(0.01), bias=0.0, mark="[CAFFE]"),
    ),
)

HALF = Variant(
    "half", side=224, colour="RGB", scale=1.0, mean="image", mean_crop="centre", std=UNIT, resize="shorter",
    source="[CODE12] net 145-half, the paper's one-GPU net ([K12] 3.2): half the kernels, but not in conv5, fc6, fc7",
    layers=(
        Conv("conv1", 48, 11, stride=4, pad=Pad(0, 3), groups=1, init=Normal(0.01), bias=0.0,
             mark="[CODE12] padding 0, but windows are counted by ceil: the last hangs over by 3 px right and below"),
        LRN("norm1", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=True, towers=1,
            mark="[CODE12] before the ReLU: scale .0001 is divided by size; minDiv 2"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[CODE12] ceil, exact here"),
        ReLU("relu1", mark="[CODE12] the neuron sits on pool1"),
        Conv("conv2", 128, 5, stride=1, pad=Pad(2, 2), groups=1, init=Normal(0.01), bias=1.0, mark="[CODE12]"),
        ReLU("relu2", mark="[CODE12]"),
        LRN("norm2", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=True, towers=1, mark="[CODE12] as norm1"),
        WithinMapLRN("wmnorm2", size=5, k=1.0, alpha=1e-3, beta=0.75,
                     mark="[CODE12] not in the paper: scale .001 is divided by 5·5; minDiv 1"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[CODE12] ceil, exact here"),
        Conv("conv3", 192, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.03), bias=0.0, mark="[CODE12]"),
        ReLU("relu3", mark="[CODE12]"),
        Conv("conv4", 192, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.03), bias=1.0, mark="[CODE12]"),
        ReLU("relu4", mark="[CODE12]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.03), bias=1.0,
             mark="[CODE12] 256 maps: not halved, as a footnote of [K12] 3.2 says"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[CODE12] its pool3; ceil, exact here"),
        ReLU("relu5", mark="[CODE12] the neuron sits on pool3"),
        Linear("fc6", 4096, init=Normal(0.01), bias=1.0, mark="[CODE12] fc4096a"),
        ReLU("relu6", mark="[CODE12]"),
        Dropout("drop6", p=0.5, mark=f"[CODE12] {HS_DROP}"),
        Linear("fc7", 4096, init=Normal(0.005), bias=1.0, mark=f"[CODE12] fc4096ba. {HS_STD}"),
        ReLU("relu7", mark="[CODE12]"),
        Dropout("drop7", p=0.5, mark=f"[CODE12] {HS_DROP}"),
        Linear("fc8", None, init=Normal(0.005), bias=0.0, mark=f"[CODE12] fc1000. {HS_STD}"),
    ),
)

ONETOWER = Variant(
    "onetower", side=224, colour="RGB", scale=1.0, mean="image", mean_crop="centre", std=UNIT, resize="shorter",
    source="[OWT] layers-imagenet-1gpu of cuda-convnet2, from which torchvision has its widths",
    layers=(
        Conv("conv1", 64, 11, stride=4, pad=Pad(0, 3), groups=1, init=Normal(0.01), bias=0.0,
             mark="[OWT] padding 0, but windows are counted by ceil: the last hangs over by 3 px right and below"),
        LRN("norm1", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=True, towers=1,
            mark="[OWT] before the ReLU: scale .0001 is divided by size; minDiv 2"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[OWT] ceil, exact here"),
        ReLU("relu1", mark="[OWT] the neuron sits on pool1"),
        Conv("conv2", 192, 5, stride=1, pad=Pad(2, 2), groups=1, init=Normal(0.01), bias=1.0, mark="[OWT]"),
        ReLU("relu2", mark="[OWT]"),
        LRN("norm2", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=True, towers=1, mark="[OWT] as norm1"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[OWT] ceil, exact here"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.03), bias=0.0, mark="[OWT]"),
        ReLU("relu3", mark="[OWT]"),
        Conv("conv4", 256, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.03), bias=1.0, mark="[OWT]"),
        ReLU("relu4", mark="[OWT]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.03), bias=1.0, mark="[OWT]"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[OWT] ceil, exact here"),
        ReLU("relu5", mark="[OWT] the neuron sits on the pooling"),
        Linear("fc6", 4096, init=Normal(0.01), bias=1.0, mark="[OWT]"),
        ReLU("relu6", mark="[OWT]"),
        Dropout("drop6", p=0.5, mark=f"[OWT] dropout2, {HS_DROP}"),
        Linear("fc7", 4096, init=Normal(0.005), bias=1.0, mark=f"[OWT] {HS_STD}"),
        ReLU("relu7", mark="[OWT]"),
        Dropout("drop7", p=0.5, mark=f"[OWT] dropout2, {HS_DROP}"),
        Linear("fc8", None, init=Normal(0.005), bias=-7.0,
               mark=f"[OWT] initB -7: of many classes, all but one are off. {HS_STD}"),
    ),
)

TORCHVISION = Variant(
    "torchvision", side=224, colour="RGB", scale=1 / 255, mean=(0.485, 0.456, 0.406), mean_crop="centre",
    std=(0.229, 0.224, 0.225), resize="shorter",
    source="[TV] torchvision.models.alexnet: the widths of [OWT], no normalisation, dropout before fc6 and fc7",
    layers=(
        Conv("conv1", 64, 11, stride=4, pad=Pad(2, 2), groups=1, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
        ReLU("relu1", mark="[TV]"),
        MaxPool("pool1", 3, stride=2, ceil=False, mark="[TV]"),
        Conv("conv2", 192, 5, stride=1, pad=Pad(2, 2), groups=1, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
        ReLU("relu2", mark="[TV]"),
        MaxPool("pool2", 3, stride=2, ceil=False, mark="[TV]"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
        ReLU("relu3", mark="[TV]"),
        Conv("conv4", 256, 3, stride=1, pad=Pad(1, 1), groups=1, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
        ReLU("relu4", mark="[TV]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=1, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
        ReLU("relu5", mark="[TV]"),
        MaxPool("pool5", 3, stride=2, ceil=False, mark="[TV]"),
        AdaptivePool("avgpool", 6, mark="[TV] does nothing at 224; lets other sizes in"),
        Dropout("drop6", p=0.5, mark="[TV] before fc6, on the pooled maps"),
        Linear("fc6", 4096, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
        ReLU("relu6", mark="[TV]"),
        Dropout("drop7", p=0.5, mark="[TV] before fc7"),
        Linear("fc7", 4096, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
        ReLU("relu7", mark="[TV] no dropout after it"),
        Linear("fc8", None, init=FanInUniform(), bias=FanInUniform(), mark="[TV]"),
    ),
)

BN = Variant(
    "bn", side=227, colour="RGB", scale=1.0, mean=ZERO, mean_crop="centre", std=UNIT, resize="shorter",
    source="[CVGJ] AlexNet_cvgj: batch normalisation for LRN, dropout and the mean. "
           "DEVIATES colour: RGB; the published model, as Caffe, reads BGR",
    layers=(
        BatchNorm("bn0", scale=True, momentum=0.1, eps=1e-5,
                  mark="[CVGJ] data/bn, on the raw pixels: moving average .9, then a learnable scale and shift"),
        Conv("conv1", 96, 11, stride=4, pad=Pad(0, 0), groups=1, init=He(), bias=0.0, mark="[CVGJ]"),
        BatchNorm("bn1", scale=False, momentum=0.1, eps=1e-5, mark="[CVGJ] moving average .9; no scale, no shift"),
        ReLU("relu1", mark="[CVGJ]"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[CVGJ] ceil, exact here"),
        Conv("conv2", 256, 5, stride=1, pad=Pad(2, 2), groups=2, init=He(), bias=0.0, mark="[CVGJ]"),
        BatchNorm("bn2", scale=False, momentum=0.1, eps=1e-5, mark="[CVGJ] as bn1"),
        ReLU("relu2", mark="[CVGJ]"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[CVGJ] ceil, exact here"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=He(), bias=0.0, mark="[CVGJ]"),
        BatchNorm("bn3", scale=False, momentum=0.1, eps=1e-5, mark="[CVGJ] as bn1"),
        ReLU("relu3", mark="[CVGJ]"),
        Conv("conv4", 384, 3, stride=1, pad=Pad(1, 1), groups=2, init=He(), bias=0.0, mark="[CVGJ]"),
        BatchNorm("bn4", scale=False, momentum=0.1, eps=1e-5, mark="[CVGJ] as bn1"),
        ReLU("relu4", mark="[CVGJ]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=2, init=He(), bias=0.0, mark="[CVGJ]"),
        BatchNorm("bn5", scale=False, momentum=0.1, eps=1e-5, mark="[CVGJ] as bn1"),
        ReLU("relu5", mark="[CVGJ]"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[CVGJ] ceil, exact here"),
        Linear("fc6", 4096, init=He(), bias=0.0, mark="[CVGJ]"),
        BatchNorm("bn6", scale=False, momentum=0.1, eps=1e-5, mark="[CVGJ] as bn1"),
        ReLU("relu6", mark="[CVGJ] no dropout after it"),
        Linear("fc7", 4096, init=He(), bias=0.0, mark="[CVGJ]"),
        BatchNorm("bn7", scale=False, momentum=0.1, eps=1e-5, mark="[CVGJ] as bn1"),
        ReLU("relu7", mark="[CVGJ] no dropout after it"),
        Linear("fc8", None, init=He(), bias=0.0, mark="[CVGJ]"),
    ),
)

ONNXZOO = Variant(
    "onnxzoo", side=224, colour="BGR", scale=1.0, mean=(104.0, 117.0, 123.0), mean_crop="centre", std=UNIT,
    resize="warp",
    source="[ZOO] bvlc_alexnet's weights in a geometry of their own: 224 px make 54, 26, 12 where [CAFFE] has 55, 27, "
           "13. SILENT colour, scale, mean and resize: [CAFFE] BGR in 0..255, warped; for the mean image, which no "
           "such file brings, the three values that caffenet's own files offer instead",
    layers=(
        Conv("conv1", 96, 11, stride=4, pad=Pad(0, 0), groups=1, init=Normal(0.01), bias=0.0,
             mark="[ZOO] no padding at 224 px: 54, where [CAFFE] has 227 px and 55. SILENT initial values: [CAFFE]"),
        ReLU("relu1", mark="[ZOO]"),
        LRN("norm1", size=5, k=1.0, alpha=1e-4, beta=0.75, divide=True, towers=1,
            mark="[ZOO] alpha, divided by size, and k as printed; the window crosses the towers' edge"),
        MaxPool("pool1", 3, stride=2, ceil=False, mark="[ZOO] no padding: 54 to 26, where ceil would give 27"),
        Conv("conv2", 256, 5, stride=1, pad=Pad(2, 2), groups=2, init=Normal(0.01), bias=0.1, mark=ZOO_INIT),
        ReLU("relu2", mark="[ZOO]"),
        LRN("norm2", size=5, k=1.0, alpha=1e-4, beta=0.75, divide=True, towers=1, mark="[ZOO] as norm1"),
        MaxPool("pool2", 3, stride=2, ceil=False, mark="[ZOO] no padding: 26 to 12, where ceil would give 13"),
        Conv("conv3", 384, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.01), bias=0.0, mark=ZOO_INIT),
        ReLU("relu3", mark="[ZOO]"),
        Conv("conv4", 384, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=0.1, mark=ZOO_INIT),
        ReLU("relu4", mark="[ZOO]"),
        Conv("conv5", 256, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=0.1, mark=ZOO_INIT),
        ReLU("relu5", mark="[ZOO]"),
        MaxPool("pool5", 3, stride=2, ceil=True,
                mark="[ZOO] a row and a column of padding at the end, pads 0, 0, 1, 1: 12 to 6, which is ceil"),
        Linear("fc6", 4096, init=Normal(0.005), bias=0.1, mark=ZOO_INIT),
        ReLU("relu6", mark="[ZOO]"),
        Dropout("drop6", p=0.5, mark="[ZOO]"),
        Linear("fc7", 4096, init=Normal(0.005), bias=0.1, mark=ZOO_INIT),
        ReLU("relu7", mark="[ZOO]"),
        Dropout("drop7", p=0.5, mark="[ZOO]"),
        Linear("fc8", None, init=Normal(0.01), bias=0.0,
               mark=f"{ZOO_INIT}. DEVIATES: logits; the graph gives their softmax"),
    ),
)

TINY = Variant(
    "tiny", side=64, colour="RGB", scale=1.0, mean="image", mean_crop="centre", std=UNIT, resize="shorter",
    source="[K12] wired as `paper`, for tests and small machines. "
           "DEVIATES: an eighth of the widths, 64 px; maps of 15, 7, 3 and 1 where `paper` has 55, 27, 13 and 6",
    layers=(
        Conv("conv1", 12, 11, stride=4, pad=Pad(0, 3), groups=1, init=Normal(0.01), bias=0.0,
             mark=f"[K12] 3.5, 5. {CEIL_PAD}, as also at 64 px"),
        ReLU("relu1", mark="[K12] 3.5"),
        LRN("norm1", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=False, towers=2,
            mark="[K12] 3.3. SILENT towers: [CODE12] each its own 6 maps"),
        MaxPool("pool1", 3, stride=2, ceil=True, mark="[K12] 3.4. SILENT rounding: [CODE12] ceil, exact here"),
        Conv("conv2", 32, 5, stride=1, pad=Pad(2, 2), groups=2, init=Normal(0.01), bias=1.0,
             mark="[K12] 3.5, 5. SILENT pad: [CODE12] 2"),
        ReLU("relu2", mark="[K12] 3.5"),
        LRN("norm2", size=5, k=2.0, alpha=1e-4, beta=0.75, divide=False, towers=2,
            mark="[K12] 3.3. SILENT towers: [CODE12] each its own 16 maps"),
        MaxPool("pool2", 3, stride=2, ceil=True, mark="[K12] 3.4. SILENT rounding: [CODE12] ceil, exact here"),
        Conv("conv3", 48, 3, stride=1, pad=Pad(1, 1), groups=1, init=Normal(0.01), bias=0.0,
             mark="[K12] 3.5, 5. SILENT pad: [CODE12] 1"),
        ReLU("relu3", mark="[K12] 3.5"),
        Conv("conv4", 48, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=1.0,
             mark="[K12] 3.5, 5. SILENT pad: [CODE12] 1"),
        ReLU("relu4", mark="[K12] 3.5"),
        Conv("conv5", 32, 3, stride=1, pad=Pad(1, 1), groups=2, init=Normal(0.01), bias=1.0,
             mark="[K12] 3.5, 5. SILENT pad: [CODE12] 1"),
        ReLU("relu5", mark="[K12] 3.5"),
        MaxPool("pool5", 3, stride=2, ceil=True, mark="[K12] 3.4. SILENT rounding: [CODE12] ceil, exact here"),
        Linear("fc6", 512, init=Normal(0.01), bias=1.0, mark="[K12] 3.5, 5"),
        ReLU("relu6", mark="[K12] 3.5"),
        Dropout("drop6", p=0.5, mark=K12_DROP),
        Linear("fc7", 512, init=Normal(0.01), bias=1.0, mark="[K12] 3.5, 5"),
        ReLU("relu7", mark="[K12] 3.5"),
        Dropout("drop7", p=0.5, mark=K12_DROP),
        Linear("fc8", None, init=Normal(0.01), bias=0.0, mark="[K12] 3.5, 5"),
    ),
)

VARIANTS: dict[str, Variant] = {
    v.name: v for v in (ARTICLE, PAPER, CONVNET, CAFFE, CAFFENET, HALF, ONETOWER, TORCHVISION, BN, ONNXZOO, TINY)
}

# torchvision's `features.N` and `classifier.N`, counted from 0.
FEATURES = ("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4", "relu4", "conv5", "relu5",
            "pool5")
CLASSIFIER = ("drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8")

# The 2012 program's names in its net 145, a tower's letter for *. Its third pooling is the field's pool5.
NET145 = {
    "conv1*": "conv1", "rnorm1*": "norm1", "pool1*": "pool1", "pool1*_neuron": "relu1",
    "conv2*": "conv2", "conv2*_neuron": "relu2", "rnorm2*": "norm2", "cnorm2*": "wmnorm2", "pool2*": "pool2",
    "conv3*": "conv3", "conv3*_neuron": "relu3", "conv4*": "conv4", "conv4*_neuron": "relu4",
    "conv5*": "conv5", "pool3*": "pool5", "pool3*_neuron": "relu5",
    "fc2048*": "fc6", "fc2048*_neuron": "relu6", "hs1*": "drop6",
    "fc2048b*": "fc7", "fc2048b*_neuron": "relu7", "hs2*": "drop7", "fc1000": "fc8",
}
# Its 145-half has one tower, `a`, that is twice as wide at the end; cuda-convnet2's net has one without a letter.
NET145_HALF = {name.replace("fc2048", "fc4096").replace("*", "a"): ours for name, ours in NET145.items()}
CONVNET2 = {
    **{name.replace("*", ""): ours for name, ours in NET145.items() if not name.startswith(("fc2048", "hs", "cnorm"))},
    "fc4096a": "fc6", "fc4096a_neuron": "relu6", "dropout1": "drop6",
    "fc4096b": "fc7", "fc4096b_neuron": "relu7", "dropout2": "drop7",
}
# The article's scopes, where they are called otherwise.
SCOPES = {"fc1": "fc6", "fc2": "fc7", "fc3": "fc8"}
# AlexNet_cvgj's layers that Caffe's others have not: two of Caffe's may be one of ours.
CVGJ_LAYERS = {
    "data/bn": "bn0", "data/scale": "bn0", **{f"conv{n}/bn": f"bn{n}" for n in range(1, 6)},
    "fc6/bn": "bn6", "fc7/bn": "bn7",
}
# fmt: on

TORCHVISIONS = {
    **{f"features.{n}": name for n, name in enumerate(FEATURES)},
    **{f"classifier.{n}": name for n, name in enumerate(CLASSIFIER)},
}
ALIASES: dict[str, str] = {
    **TORCHVISIONS,
    **{name.replace("*", tower): ours for name, ours in NET145.items() for tower in "ab"},
    **NET145_HALF,
    **CONVNET2,
    **SCOPES,
    **CVGJ_LAYERS,
}


WORLDS = ("torchvision", "caffe", "tensorflow", "convnet")


def names(variant: Variant) -> dict[str, dict[str, tuple[str, ...]]]:
    """What each layer of a variant is called elsewhere: our name -> the world -> its names there, none or several."""
    kept = {row.name for row in CAFFE.layers}
    grouped = any(isinstance(row, Conv) and row.groups > 1 for row in variant.layers)
    towers = {name.replace("*", tower): ours for name, ours in NET145.items() for tower in "ab"}
    net = towers if grouped else NET145_HALF if variant.name == HALF.name else CONVNET2
    scoped = {name for name in kept if name.startswith("conv")}
    caffe, tensorflow = {name: name for name in kept}, {name: name for name in scoped}
    tables = (TORCHVISIONS, {**caffe, **CVGJ_LAYERS}, {**tensorflow, **SCOPES}, net)
    return {
        row.name: {
            world: tuple(theirs for theirs, ours in table.items() if ours == row.name)
            for world, table in zip(WORLDS, tables, strict=True)
        }
        for row in variant.layers
    }


def variant(name: str) -> Variant:
    """The variant called `name`; UsageError, with the known names, if there is none."""
    if name not in VARIANTS:
        near = did_you_mean(name, VARIANTS)
        raise UsageError(f"no variant is called {name!r}; known: {', '.join(VARIANTS)}{near}")
    return VARIANTS[name]


def layer_name(name: str, variant: Variant) -> str:
    """The variant's own name of a layer, from that, torchvision's (`features.0`), the 2012 program's (`conv1a`), …

    UsageError, with the known names, if the variant has no such layer.
    """
    known = [row.name for row in variant.layers]
    for candidate in (name, ALIASES.get(name)):
        if candidate in known:
            return candidate
    raise UsageError(f"{variant.name} has no layer {name!r}; known: {', '.join(known)}")
