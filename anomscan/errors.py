"""What can go wrong, as one tree.

AnomscanError
├── UsageError             exit 2: the command line asks for something that does not exist
├── MissingExtra           a package is not installed
├── InputError
│   ├── UnreadableImage    one file; ``score`` turns it into a row instead of failing
│   └── NoImages           nothing to look at
├── ClusterError           the machines that should work cannot be used
├── OutputError            the result cannot be written
├── StateError             what a watch remembers cannot be used
├── ModelError
│   ├── ModelNotFound
│   ├── ModelTooNew        written by a newer anomscan
│   ├── ModelDamaged       a file is missing or its checksum is wrong
│   ├── ModelBusy          another process is writing it
│   ├── GalleryTooSmall    fewer normals than neighbours
│   └── CalibrationTooSmall  too few held-out normals for a decision
├── WeightsUnavailable     no pretrained weights for a backbone
├── TrainingDiverged       the loss is no longer a number
├── Int8Differs            an 8-bit extractor ranks images differently
└── ParityError            an exported file does not reproduce the scores

Every message is one sentence for the person at the keyboard; ``__main__.main`` catches the tree once.
"""


class AnomscanError(Exception):
    """Base of every error that is reported as one sentence; ``exit_code`` is the process's."""

    exit_code = 1


class UsageError(AnomscanError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2


class MissingExtra(AnomscanError):
    """A package that only some installations have is needed; the message says how to install it."""


class InputError(AnomscanError):
    """The images given cannot be used."""


class UnreadableImage(InputError):
    """One file that does not decode; the message is the reason, without the path."""


class NoImages(InputError):
    """A folder, or a whole command line, without a single usable image."""


class OutputError(AnomscanError):
    """The result cannot be written where it was asked for."""


class ClusterError(AnomscanError):
    """The machines of a cluster cannot be reached, or give up."""


class StateError(AnomscanError):
    """The file in which a watch remembers what it has done is damaged, or in use, or another's."""


class ModelError(AnomscanError):
    """The model folder cannot be used."""


class ModelNotFound(ModelError):
    """There is no model folder where one is needed."""


class ModelTooNew(ModelError):
    """The model folder was written by a newer version of anomscan."""


class ModelDamaged(ModelError):
    """A file of the model folder is missing, or is not the one that was written."""


class ModelBusy(ModelError):
    """Another process is writing the model folder."""


class GalleryTooSmall(ModelError):
    """Fewer normals in the gallery than neighbours asked for."""


class CalibrationTooSmall(ModelError):
    """Too few normals were held out for the alarm rate asked for, or none at all."""


class WeightsUnavailable(AnomscanError):
    """No pretrained weights for the backbone; a backbone is never silently random."""


class TrainingDiverged(AnomscanError):
    """The loss is no longer a finite number; nothing was written."""


class Int8Differs(AnomscanError):
    """An 8-bit extractor ranks images differently from the float one; it was not written."""


class ParityError(AnomscanError):
    """An exported file does not reproduce the scores it was exported from; it was not written."""
