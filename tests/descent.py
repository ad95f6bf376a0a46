"""Gradient descent as the text of a script: an optimizer like any other, without what torch's own bring along.

The first of torch's optimizers in a process imports torch._dynamo, for two to four seconds of a processor: much more than what
most tests run in a process of their own take otherwise. Tests of what optimizers do use torch's.
"""

DESCENT = """
import torch

class Descent(torch.optim.Optimizer):
    def add_param_group(self, group):
        self.param_groups.append(group)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.1)

    def zero_grad(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

"""
