"""Deployment files: the stage YAML that vLLM-Omni users have, read into our configuration."""

from cadence.deploy.reader import load_deploy_config

__all__ = ["load_deploy_config"]
