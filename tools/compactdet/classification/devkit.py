"""ImageNet's development kit, which contains the classes of the validation images."""

import io
import tarfile
from pathlib import Path, PurePosixPath

from compactdet.data.archives import BROKEN
from compactdet.errors import UserError

DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'


def read_devkit(kit: Path) -> list[str]:
    """Return ImageNet's validation classes as WordNet ids, in the order of the images.

    Raises:
        UserError: The development kit cannot be read.
    """
    from scipy.io import loadmat  # here: the other data sets do without SciPy

    read: dict[str, bytes] = {}
    try:
        with tarfile.open(kit, 'r:*') as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file and member.name.endswith(('/meta.mat', 'validation_ground_truth.txt')):
                    read[PurePosixPath(member.name).suffix] = file.read()
        synsets = loadmat(io.BytesIO(read['.mat']), squeeze_me=True)['synsets']
        ids = {int(row['ILSVRC2012_ID']): str(row['WNID']) for row in synsets}
        return [ids[int(line)] for line in read['.txt'].split()]
    except (*BROKEN, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(f'{kit}: not a whole ImageNet development kit ({error}); get it again') from error
