"""Keep Thebe's scripts off the pages.

jupyter-book and its theme both add them, so that every page declares the same constants twice (an error in the
browser's console) and names an address outside the book, for a feature that this offline book does not offer.
"""


def _drop(_app, _pagename, _templatename, context, _doctree):
    def is_thebe(script):
        return "thebe" in str(getattr(script, "filename", "")) or "THEBE" in str(
            getattr(script, "attributes", {}).get("body")
        )

    context["script_files"] = [
        script for script in context["script_files"] if not is_thebe(script)
    ]


def setup(app):
    """Connect after the extensions that add the scripts."""
    app.connect("html-page-context", _drop, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
