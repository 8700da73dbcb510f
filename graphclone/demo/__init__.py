"""The whole story on a real model: cut, verified, trained beside a twin that starts from nothing, and run."""
