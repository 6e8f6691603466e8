"""Train networks with torch. Nothing that runs on a robot imports this folder."""
