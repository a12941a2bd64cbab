"""How much arithmetic a model needs, counted on paper."""

import math

TRAINING = 3  # The backward pass multiplies with each matrix twice more.


def forward_multiply_adds(size, variant=1, class_token=False):
    """Returns the multiply-adds of one video's forward pass.

    A multiplication with the addition that follows is one, as in the ViViT paper, and
    two floating-point operations. Counted are the matrix products: tubelet embedding,
    the projections of queries, keys, values and outputs, scores and weighted sums,
    MLPs, the head. Norms, softmax, activations and position tables are not, by which
    ViViT-B/16x2 comes out 0.3 to 0.9 % below table 3 of the paper.

    Args:
        size: `sizes.Size`.
        variant: Integer, 1 to 4, of the paper.
        class_token: Boolean, for variants 1 and 2; variant 2 has one in each encoder.
    """
    t, s = size.grid[0], math.prod(size.grid[1:])
    dim, mlp, layers = size.embed_dim, size.mlp_dim, size.num_layers
    cls = int(class_token)

    def block(tokens, attended, attentions=1):
        projections = 4 * tokens * dim * dim * attentions
        return projections + 2 * tokens * attended * dim + 2 * tokens * dim * mlp

    match variant:
        case 1:
            blocks = layers * block(t * s + cls, t * s + cls)
        case 2:
            blocks = layers * t * block(s + cls, s + cls)
            blocks += size.num_temporal_layers * block(t + cls, t + cls)
        case 3:
            blocks = layers * block(t * s, s + t, attentions=2)
        case 4:
            blocks = layers * block(t * s, (s + t) / 2)
    embedding = t * s * math.prod(size.tubelet) * size.video[-1] * dim
    return embedding + blocks + dim * size.num_classes


def operations(size, model, training):
    """Returns the floating-point operations of one step with a whole batch.

    What rematerialization computes again is not counted: it is no progress.
    """
    forward = forward_multiply_adds(size, model.variant, model.class_token)
    return 2 * size.batch * forward * (TRAINING if training else 1)
