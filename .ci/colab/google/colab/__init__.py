"What the notebooks call of Google Colab, without a browser; imported before the first cell."

from google.colab import drive, files, output  # noqa: F401
