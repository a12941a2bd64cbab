"""Video and volume files: reading, sampling, batches, and predictions on many views.

What this needs beyond Keras and NumPy comes with two extras, `keras-vivit[video]` and
`keras-vivit[volume]`, and is imported when it is first used.
"""

from typing import TYPE_CHECKING

from keras_vivit.extras import lazy_names

if TYPE_CHECKING:
    from keras_vivit.data.folder import VideoFolder
    from keras_vivit.data.sampling import sample_clips, three_crops
    from keras_vivit.data.video import read_video, video_info
    from keras_vivit.data.views import predict_over_time, predict_views
    from keras_vivit.data.volume import read_volume, volume_info

__all__ = [
    "VideoFolder",
    "predict_over_time",
    "predict_views",
    "read_video",
    "read_volume",
    "sample_clips",
    "three_crops",
    "video_info",
    "volume_info",
]

# Imported at first use: most users of the models read no files.
_MODULES = {
    "VideoFolder": "folder",
    "predict_over_time": "views",
    "predict_views": "views",
    "read_video": "video",
    "read_volume": "volume",
    "sample_clips": "sampling",
    "three_crops": "sampling",
    "video_info": "video",
    "volume_info": "volume",
}

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
