"""A finished run as files that others run: ONNX, torch.export, safetensors, timm; with its model card."""
