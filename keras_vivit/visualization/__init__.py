"""What a model looks at: attention, rollout, relevance, and pictures of them."""

from typing import TYPE_CHECKING

from keras_vivit.extras import lazy_names

if TYPE_CHECKING:
    from keras_vivit.visualization.drawing import overlay, save_gif
    from keras_vivit.visualization.gradients import grad_cam, relevance
    from keras_vivit.visualization.maps import attention_maps, attention_rollout
    from keras_vivit.visualization.outputs import with_outputs, with_rollout
    from keras_vivit.visualization.reconstruction import reconstruct

__all__ = [
    "attention_maps",
    "attention_rollout",
    "grad_cam",
    "overlay",
    "reconstruct",
    "relevance",
    "save_gif",
    "with_outputs",
    "with_rollout",
]

# Imported at first use: most users of the models explain none.
_MODULES = {
    "attention_maps": "maps",
    "attention_rollout": "maps",
    "grad_cam": "gradients",
    "overlay": "drawing",
    "reconstruct": "reconstruction",
    "relevance": "gradients",
    "save_gif": "drawing",
    "with_outputs": "outputs",
    "with_rollout": "outputs",
}

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
