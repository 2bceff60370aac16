"""Statements on the pages: one name for each (its id), a way to its checks, and long proofs folded."""

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from kdlib.ledger.statements import STATEMENTS

LONG = 450  # characters of a proof that is folded


class FoldedProof(nodes.Element):
    """A proof behind its head."""


def _open(translator, _node):
    translator.body.append('<details class="proof-behind"><summary>Proof</summary>\n')


def _close(translator, _node):
    translator.body.append("</details>\n")


class Statements(SphinxPostTransform):
    """After references are resolved (10)."""

    default_priority = 300
    formats = ("html",)

    def run(self, **_options):
        """Name references by ids, lead from statements to the ledger, fold long proofs."""
        for reference in list(self.document.findall(nodes.reference)):
            anchor = (
                reference.get("refid")
                or str(reference.get("refuri", "")).rpartition("#")[2]
            )
            if anchor.upper() in STATEMENTS and reference.astext().partition(" ")[
                0
            ] in ("Theorem", "Definition"):
                reference.children = []
                reference += nodes.inline("", anchor.upper())
        for node in list(self.document.findall(nodes.Element)):
            classes = node.get("classes", [])
            if "proof" in classes and str(node.get("label", "")).upper() in STATEMENTS:
                node += self._way(node["label"])
            elif (
                isinstance(node, nodes.admonition)
                and classes.count("proof") == 2
                and len(node.astext()) > LONG
            ):
                folded = FoldedProof()
                node.replace_self(folded)
                folded += node

    def _way(self, label: str) -> nodes.Element:
        up = "" if self.env.docname.startswith("book/") else "book/"
        page, name = f"{up}ledger.html#ledger-{label}", label.upper()
        return nodes.raw(
            "",
            f'<p class="to-ledger"><a href="{page}">{name} in the ledger</a></p>',
            format="html",
        )


def setup(app):
    """Add the fold and the transform."""
    app.add_node(FoldedProof, html=(_open, _close))
    app.add_post_transform(Statements)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
