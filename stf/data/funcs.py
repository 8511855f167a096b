"""SBI's helper functions under SBI's own module name."""

from stf.data.augmentations import RandomDownScale
from stf.data.faces import IoUfrom2bboxes, crop_face
from stf.data.ffpp import init_ff
from stf.io.files import read_json as load_json

__all__ = ["IoUfrom2bboxes", "RandomDownScale", "crop_face", "init_ff", "load_json"]
