"""The verbs beside `pulumi`: `python -m ops <verb>`.

Exit codes: 0 fine, 1 findings, 2 usage or stack file, 3 environment.
"""
