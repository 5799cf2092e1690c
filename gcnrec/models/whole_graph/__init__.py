"""Encoders that propagate every node through autograd in each step."""
