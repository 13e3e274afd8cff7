"""Here so that pytest puts this folder on the import path: the tests below share `model_factories`."""
