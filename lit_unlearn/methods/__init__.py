"""The unlearning methods. To add one: its file, one import here, its name in ``__all__``, one config."""

from lit_unlearn.methods.amun import AMUN
from lit_unlearn.methods.audit import Audit
from lit_unlearn.methods.bad_teacher import BadTeacher
from lit_unlearn.methods.base import UnlearnModule
from lit_unlearn.methods.boundary_expanding import BoundaryExpanding
from lit_unlearn.methods.boundary_shrink import BoundaryShrink
from lit_unlearn.methods.cf_k import CFk
from lit_unlearn.methods.ct import CT
from lit_unlearn.methods.delete import DELETE
from lit_unlearn.methods.dist_reg import DistReg
from lit_unlearn.methods.distilled_retrain import DistilledRetrain
from lit_unlearn.methods.eu_k import EUk
from lit_unlearn.methods.finetune import FineTune
from lit_unlearn.methods.gradient_ascent import GradientAscent
from lit_unlearn.methods.head_only import HeadOnly
from lit_unlearn.methods.kernel_shuffle import KernelShuffle
from lit_unlearn.methods.l1_sparse import L1Sparse
from lit_unlearn.methods.leace import LEACE
from lit_unlearn.methods.mode_connectivity import ModeConnectivity
from lit_unlearn.methods.msg import MSG
from lit_unlearn.methods.neggrad_plus import NegGradPlus
from lit_unlearn.methods.ngd import NGD
from lit_unlearn.methods.opc import OPC
from lit_unlearn.methods.pretrain import Pretrain
from lit_unlearn.methods.projection import Projection
from lit_unlearn.methods.prune_regrow import PruneRegrow
from lit_unlearn.methods.random_labels import RandomLabels
from lit_unlearn.methods.rescale import Rescale
from lit_unlearn.methods.retrain import Retrain
from lit_unlearn.methods.retrain_short import RetrainShort
from lit_unlearn.methods.salun import SalUn
from lit_unlearn.methods.scrub import SCRUB
from lit_unlearn.methods.sfron import SFRon
from lit_unlearn.methods.ssd import SSD
from lit_unlearn.methods.undo import UNDO
from lit_unlearn.methods.weight_distortion import WeightDistortion

__all__ = [
    "AMUN",
    "CT",
    "DELETE",
    "LEACE",
    "MSG",
    "NGD",
    "OPC",
    "SCRUB",
    "SSD",
    "UNDO",
    "Audit",
    "BadTeacher",
    "BoundaryExpanding",
    "BoundaryShrink",
    "CFk",
    "DistReg",
    "DistilledRetrain",
    "EUk",
    "FineTune",
    "GradientAscent",
    "HeadOnly",
    "KernelShuffle",
    "L1Sparse",
    "ModeConnectivity",
    "NegGradPlus",
    "Pretrain",
    "Projection",
    "PruneRegrow",
    "RandomLabels",
    "Rescale",
    "Retrain",
    "RetrainShort",
    "SFRon",
    "SalUn",
    "UnlearnModule",
    "WeightDistortion",
]
