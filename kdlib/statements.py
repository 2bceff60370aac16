"""Every statement of the book: its id, what it says in one line, and the chapter that proves it.

The ids are those of the derivations. A check must name one of them; the ledger page lists them all, those that
wait for their chapter too.
"""

from __future__ import annotations

from dataclasses import dataclass

CHAPTERS = {
    1: ("01_two_papers", "Two papers, one question"),
    2: ("02_wide_limit", "Distillation in the wide limit"),
    3: ("03_transfer_risk", "The transfer risk bound"),
    4: ("04_data_inefficiency", "Data inefficiency"),
    5: ("05_teachers", "Perfect and imperfect teachers"),
    6: ("06_supervision_complexity", "Supervision complexity"),
    7: ("07_temperature_early_stopping", "Temperature and early stopping"),
    8: ("08_online_distillation", "Online distillation"),
    9: ("09_bridge", "One quantity behind both papers"),
    10: ("10_width", "Where the theory stops"),
    11: ("11_experiments", "The papers' experiments"),
}  # number -> (notebook, or None while it is unwritten; title)


@dataclass(frozen=True)
class Statement:
    """`new_here`: not found in the abstracts of the two papers; nothing more is claimed by it."""

    id: str
    title: str
    chapter: int
    new_here: bool = False


STATEMENTS = {
    statement.id: statement
    for statement in (
        Statement("E1", "The effective logit exists and is unique", 2),
        Statement("E2", "Hard labels make the effective logit overshoot", 2),
        Statement("E3", "The effective logit jumps at the decision boundary", 2, new_here=True),
        Statement("E4", "Exactly when the effective label is the true one", 2, new_here=True),
        Statement("C1", "The linearised student converges to the effective logits", 2),
        Statement("C2", "How a network of finite width differs", 10),
        Statement("R1", "The student's norm grows to the teacher's, and its angle closes", 3),
        Statement("R2", "Angle bound on the transfer risk", 3),
        Statement("R3", "Power-function bound on the transfer risk", 3, new_here=True),
        Statement("R4", "Agreement certificate for a single input", 3, new_here=True),
        Statement("R5", "All sample sizes from one Cholesky factor", 3),
        Statement("R6", "Transfer risk of a teacher outside the student's space", 3),
        Statement("D1", "Data inefficiency", 4),
        Statement("D2", "What one more example adds to the norm", 4),
        Statement("D3", "Data inefficiency sets the rate of the angle", 4),
        Statement("D4", "From the angle's rate to the risk's", 4),
        Statement("D5", "Perfect teacher: soft labels", 5, new_here=True),
        Statement("D6", "Noise keeps the data inefficiency at one or above", 4),
        Statement("H1", "Which of a teacher's errors hard labels correct", 5),
        Statement("H2", "When a correction turns the targets towards the truth", 5),
        Statement("H3", "Mixing helps with an imperfect teacher", 5),
        Statement("S1", "Supervision complexity is a squared norm", 6),
        Statement("S2", "Rademacher complexity of a kernel ball", 6),
        Statement("S3", "Margin bound through supervision complexity", 6),
        Statement("S4", "Distillation bound", 6),
        Statement("S5", "Multi-class margin bound", 6),
        Statement("S6", "Which supervision is complex", 6),
        Statement("S7", "Tightness of the certificates", 6),
        Statement("T1", "Supervision complexity at extreme temperatures", 7),
        Statement("T2", "Temperature does not act through scale", 7, new_here=True),
        Statement("T3", "Complexity is not monotone in the temperature", 7),
        Statement("O1", "Early stopping lowers complexity if the kernels commute", 7),
        Statement("O2", "It need not if they do not", 7, new_here=True),
        Statement("O3", "The early-stopping trade-off", 7),
        Statement("N1", "Online and offline meet in the limit", 8),
        Statement("N2", "Online distillation is a double filter", 8, new_here=True),
        Statement("N3", "Online distillation of finite networks", 8),
        Statement("B1", "The two papers' quantities are one", 9, new_here=True),
        Statement("B2", "The bound improves exactly when data inefficiency is below one", 9, new_here=True),
    )
}


@dataclass(frozen=True)
class Claim:
    """What a paper's abstract (or a public review of it) says, in our words, and the statements that bear on it.

    `condition` is what the chapters found it to depend on; shown where the checks came out both ways.
    """

    number: int
    source: str
    text: str
    statements: tuple[str, ...]
    condition: str = ""


_JI_ZHU, _HARUTYUNYAN, _REVIEWS = "Ji & Zhu 2020", "Harutyunyan et al. 2023", "reviews of Ji & Zhu"
CLAIMS = (
    Claim(1, _JI_ZHU, "Distilling into a wide network is learning a linear model of random features.", ("C1", "C2")),
    Claim(2, _JI_ZHU, "The transfer risk of the student is bounded.", ("R1", "R2", "R3", "R4", "R5", "R6")),
    Claim(3, _JI_ZHU, "Data inefficiency measures how hard a task is.", ("D1", "D2", "D3", "D4", "D6")),
    Claim(
        4, _JI_ZHU, "For a perfect teacher a high soft ratio is beneficial.", ("E2", "E3", "D5"),
        "A higher soft ratio must lower the share of the supervision that lies in directions not yet learnt: so it is "
        "for a smooth teacher, and not for one whose confident answers are rough.",
    ),
    Claim(
        5, _JI_ZHU, "For an imperfect teacher hard labels correct its wrong predictions, which explains mixing.",
        ("E1", "E4", "H1", "H2", "H3"),
        "Which labels are corrected is exact for every teacher; that mixing is best needs one that is neither better than "
        "the labels nor much worse, for the student and the number of examples at hand.",
    ),
    Claim(
        6, _HARUTYUNYAN,
        "The student's error is bounded through the teacher's accuracy, the student's margin with respect to the teacher, "
        "and the complexity of the teacher's predictions.",
        ("S1", "S2", "S3", "S4", "S5", "S6", "S7"),
    ),
    Claim(
        7, _HARUTYUNYAN, "Early stopping of the teacher is justified.", ("O1", "O2", "O3"),
        "With much label noise and the right moment it is, for kernels and networks; without noise there is nothing to gain. "
        "Stopped by its own cross-entropy, a small teacher is stopped too early or not at all. The complexity grows along a "
        "teacher's training on images, and is guaranteed to only for kernels that commute.",
    ),
    Claim(
        8, _HARUTYUNYAN, "Temperature scaling is justified.", ("T1", "T2", "T3"),
        "For students that interpolate; and by the shape it gives to the supervision, not by its scale. In the small networks "
        "of the batch a higher temperature helps some and hurts others, hardly beyond the intervals.",
    ),
    Claim(
        9, _HARUTYUNYAN, "Online distillation gives increasingly complex supervision, and works on a range of image benchmarks.",
        ("N1", "N2", "N3"),
        "Increasingly complex it is, for finite networks too. In the kernel regime an online student is a delayed one: ahead if "
        "both train too long, behind if too briefly, and no better for whoever chooses the time. What finite students gain or lose "
        "depends on student, data and learning rate, and little of it exceeds the intervals; much of the growth is the "
        "teacher's certainty, not the difficulty of its answers.",
    ),
    Claim(10, _REVIEWS, "The theory needs an over-parameterised student, and practical students are small.", ("C2",)),
    Claim(11, _REVIEWS, "Convergence of the student is assumed, not guaranteed.", ("C1", "C2")),
    Claim(12, _REVIEWS, "The wide-network assumption may be unrealistic.", ("C2",)),
)  # fmt: skip
