"""Attributes, prompt templates, prompt sets, and files of prompts."""
