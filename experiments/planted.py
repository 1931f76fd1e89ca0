"""A training with a race of its own, for `make artifact`: another stream writes the batch that the model reads."""

import torch

left = torch.cuda.Stream()
model = torch.nn.Linear(4, 4).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
buffer = torch.zeros(3, 4, device="cuda")
for _ in range(2):
    with torch.cuda.stream(left):
        buffer.add_(1.0)
    model(buffer).sum().backward()
    optimizer.step()
