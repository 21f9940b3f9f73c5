"""Ilyas, Santurkar, Tsipras, Engstrom, Tran, Madry 2019, *Adversarial Examples Are Not Bugs, They Are Features*."""
