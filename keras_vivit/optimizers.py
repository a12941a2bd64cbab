"""Muon for transformers."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_vivit import fast, validation
from keras_vivit.types import Config, Tensor

__all__ = ["Muon"]

# Kernels of our attention, and of `keras.layers.MultiHeadAttention`.
INPUTS = ("/query/kernel", "/key/kernel", "/value/kernel")
OUTPUTS = ("/output/kernel", "/attention_output/kernel")
Pairs = list[tuple[Tensor, Any]]  # gradients and their variables
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial whose limit is the sign


@keras.saving.register_keras_serializable("keras_vivit")
class Muon(keras.optimizers.Optimizer):
    """Muon for the kernels of MLPs and attention, AdamW for everything else.

    Muon steps along the orthogonal matrix that is nearest to a kernel's momentum
    (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024).
    The length of steps is that of AdamW's (arXiv 2502.16982, section 2.2), so that one
    learning rate serves both. `keras.optimizers.Muon` takes kernels of two axes alone,
    and leaves those of attention, `(features, heads, head_dim)` and `(heads, head_dim,
    features)`, to AdamW. Here heads and their features count as one axis.

    Args:
        learning_rate: Float, or a schedule.
        momentum: Float in [0, 1), of Muon.
        beta_1: Float in [0, 1), of AdamW.
        beta_2: Float in [0, 1), of AdamW.
        epsilon: Positive float, of AdamW.
        exclude_layers: Sequence of regular expressions that are searched for in the
            paths of variables: AdamW updates these kernels, too. Usual for the head.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
            name: As for all optimizers of Keras.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        momentum: float = 0.95,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        exclude_layers: Sequence[str] = (),
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "muon",
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self.momentum = validation.rate("momentum", momentum)
        self.beta_1 = validation.rate("beta_1", beta_1)
        self.beta_2 = validation.rate("beta_2", beta_2)
        self.epsilon = validation.between("epsilon", epsilon, 0, 1)
        self.exclude_layers = tuple(exclude_layers)

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.matrices = [self._matrix(variable) for variable in variables]
        add = self.add_variable_from_reference
        self.momentums = [add(variable, name="momentum") for variable in variables]
        self.velocities = [
            None if shape else add(variable, name="velocity")
            for shape, variable in zip(self.matrices, variables, strict=True)
        ]

    def _matrix(self, variable: Any) -> tuple[int, int] | None:
        """Returns the shape of a kernel, inputs by outputs; `None` for AdamW's."""
        path, shape = variable.path, tuple(variable.shape)
        if any(re.search(pattern, path) for pattern in self.exclude_layers):
            return None
        if len(shape) == 3 and path.endswith(INPUTS):
            return shape[0], shape[1] * shape[2]
        if len(shape) == 3 and path.endswith(OUTPUTS):
            return shape[0] * shape[1], shape[2]
        return shape if len(shape) == 2 and path.endswith("/kernel") else None

    def update_step(
        self, gradient: Tensor, variable: Any, learning_rate: Tensor
    ) -> None:
        self._update([(gradient, variable)], learning_rate)

    def _backend_update_step(
        self, grads: list[Tensor], trainable_variables: list[Any], learning_rate: Tensor
    ) -> None:
        one_by_one = super()._backend_update_step
        pairs = grads, trainable_variables
        fast.update_variables(one_by_one, self._update, *pairs, learning_rate)

    def _update(self, pairs: Pairs, learning_rate: Tensor) -> None:
        """Updates variables, all kernels of one shape at once."""
        groups: dict[Any, Pairs] = {}
        for gradient, variable in pairs:
            shape = self.matrices[self._get_variable_index(variable)]
            gradient = ops.cast(gradient, variable.dtype)
            groups.setdefault(shape, []).append((gradient, variable))
        for shape, group in groups.items():
            steps = self._adamw(group) if shape is None else self._muon(group, shape)
            for (_, variable), step in zip(group, steps, strict=True):
                rate = ops.cast(learning_rate, variable.dtype)
                self.assign_sub(variable, rate * step)

    def _muon(self, pairs: Pairs, shape: tuple[int, int]) -> Iterator[Tensor]:
        ahead = []
        for gradient, variable in pairs:
            state = self.momentums[self._get_variable_index(variable)]
            momentum = self.momentum * ops.convert_to_tensor(state) + gradient
            self.assign(state, momentum)
            nesterov = gradient + self.momentum * momentum
            ahead.append(ops.reshape(nesterov, shape))
        steps = _orthogonal(ops.stack(ahead)) * (0.2 * max(shape) ** 0.5)
        for (_, variable), step in zip(pairs, ops.unstack(steps), strict=True):
            yield ops.reshape(step, variable.shape)

    def _adamw(self, pairs: Pairs) -> Iterator[Tensor]:
        count = ops.cast(self.iterations + 1, "float32")
        first, second = (1 - ops.power(b, count) for b in (self.beta_1, self.beta_2))
        scale = ops.sqrt(second) / first
        for gradient, variable in pairs:
            index = self._get_variable_index(variable)
            states = self.momentums[index], self.velocities[index]
            momentum, velocity = map(ops.convert_to_tensor, states)
            momentum = momentum + (1 - self.beta_1) * (gradient - momentum)
            velocity = velocity + (1 - self.beta_2) * (gradient * gradient - velocity)
            self.assign(states[0], momentum)
            self.assign(states[1], velocity)
            length = ops.cast(scale, variable.dtype)
            yield length * momentum / (velocity**0.5 + self.epsilon)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "exclude_layers": list(self.exclude_layers),
        }


def _orthogonal(matrices: Tensor) -> Tensor:
    """Returns about the nearest matrices with orthonormal rows, or else columns.

    Five steps of a Newton-Schulz iteration take singular values to [.7, 1.2].
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = ops.swapaxes(matrices, 1, 2) if tall else matrices
    x = x / (ops.norm(x, axis=(1, 2), keepdims=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        square = x @ ops.swapaxes(x, 1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return ops.swapaxes(x, 1, 2) if tall else x
