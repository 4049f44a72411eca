"The output of a cell."


def enable_custom_widget_manager() -> None:
    "Widgets of other versions than Colab's own."


def clear() -> None:
    "Nothing is shown here."
