"""Allocates what a plan predicts on a real device and compares, tensor by tensor. The only package that uses torch."""
