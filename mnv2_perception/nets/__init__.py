"""The network architectures, in torch. Nothing that runs on a robot imports this folder."""
