"""LTS written out element by element, slowly and obviously, from its equations: what the real one is compared with.

Frozen parameters drift on here as in the published method; only the effective value counts.
"""

from __future__ import annotations

import math

import numpy as np
import torch


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return torch.round(value)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class SlowLayer:
    """One layer's weight, four bounds and buffers."""

    def __init__(self, weight, bounds, *, bits, weight_form, warmup, total, momentum, mode, fixed_rate):
        self.w = weight.detach().clone().requires_grad_()
        self.lW, self.uW, self.lA, self.uA = (b.detach().clone().requires_grad_() for b in bounds)
        self.wbits, self.abits = bits
        self.form = weight_form
        self.warmup, self.total, self.m, self.mode, self.fixed = warmup, total, momentum, mode, fixed_rate
        self.number = np.float32 if weight.dtype == torch.float32 else np.float64
        zeros = np.zeros(weight.numel(), dtype=self.number)
        self.D, self.P, self.F = zeros.copy(), zeros.copy(), np.zeros(weight.numel(), dtype=int)
        self.S = torch.zeros_like(weight)
        self.t = -1

    def frozen(self):
        return torch.from_numpy(self.F != 0).reshape(self.w.shape)

    def weight(self):
        """The used weight in one training forward; updates every buffer."""
        self.t += 1
        w_eff = torch.where(self.frozen(), self.S, self.w)
        self.S = w_eff.detach().clone()
        n = 2**self.wbits - 1
        p = (w_eff - self.lW) / (self.uW - self.lW)
        q = Round.apply(torch.clamp(p, 0, 1) * n) / n
        self.watch(p.detach().flatten().numpy(), q.detach().flatten().numpy(), step=1 / n)
        return 2 * q - 1 if self.form == "normalized" else self.lW + q * (self.uW - self.lW)

    def watch(self, p, q, *, step):
        x = (self.t - self.warmup) / (self.total - self.warmup)
        rate = {"fixing": self.fixed, "linear_growth": x, "sine_growth": math.sin(math.pi * x / 2)}[self.mode]
        m, one_minus_m = self.number(self.m), self.number(1 - self.m)
        for i in range(len(p)):
            d = abs(p[i] - q[i])
            if self.t == 1:
                self.D[i] = d
            else:
                self.D[i] = m * self.D[i] + one_minus_m * d
                if q[i] != self.P[i]:
                    self.D[i] = step
            self.P[i] = q[i]
            if self.t > self.warmup and self.F[i] == 0 and self.D[i] <= self.number(rate * step):
                self.F[i] = self.t

    def input(self, value):
        n = 2**self.abits - 1
        p = (value - self.lA) / (self.uA - self.lA)
        q = Round.apply(torch.clamp(p, 0, 1) * n) / n
        return q if self.form == "normalized" else self.lA + q * (self.uA - self.lA)

    def bounds(self):
        return [self.lW, self.uW, self.lA, self.uA]
