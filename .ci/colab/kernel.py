"A kernel as Colab starts it: google.colab is there before the first cell."

import google.colab  # noqa: F401
from ipykernel.kernelapp import launch_new_instance

launch_new_instance()
