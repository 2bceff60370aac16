"""Every statement of the book: its id, what it says in one line, and the chapter that proves it; and the papers'
claims.

The ids are those of the derivations. A check must name one of them; the ledger page lists them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Statement:
    """`new_here`: not found in the abstracts of the two papers; nothing more is claimed by it.

    A `definition` has an id and checks (of the function that computes it), and nothing to prove: it is not counted.
    """

    id: str
    title: str
    chapter: str
    new_here: bool = False
    definition: bool = False


STATEMENTS = {
    statement.id: statement
    for statement in (
        Statement("E1", "The effective logit exists and is unique", "wide_limit"),
        Statement("E2", "Hard labels make the effective logit overshoot", "wide_limit"),
        Statement("E3", "The effective logit jumps at the decision boundary", "wide_limit", new_here=True),
        Statement("E4", "Exactly when the effective label is the true one", "wide_limit", new_here=True),
        Statement("C1", "The linearised student converges to the effective logits", "wide_limit"),
        Statement("C2", "How a network of finite width differs", "width"),
        Statement("R1", "The student's norm grows to the teacher's, and its angle closes", "transfer_risk"),
        Statement("R2", "Angle bound on the transfer risk", "transfer_risk"),
        Statement("R3", "Power-function bound on the transfer risk", "transfer_risk", new_here=True),
        Statement("R4", "Agreement certificate for a single input", "transfer_risk", new_here=True),
        Statement("R5", "All sample sizes from one Cholesky factor", "transfer_risk"),
        Statement("R6", "Transfer risk of a teacher outside the student's space", "transfer_risk"),
        Statement("R7", "Transfer risk from the sample alone", "transfer_risk", new_here=True),
        Statement("D1", "Data inefficiency", "data_inefficiency", definition=True),
        Statement("D2", "What one more example adds to the norm", "data_inefficiency"),
        Statement("D3", "Data inefficiency sets the rate of the angle", "data_inefficiency"),
        Statement("D4", "From the angle's rate to the risk's", "data_inefficiency"),
        Statement("D5", "Perfect teacher: soft labels", "teachers", new_here=True),
        Statement("D6", "Noise keeps the data inefficiency at one or above", "data_inefficiency"),
        Statement("D7", "The jump law: any share of hard labels", "data_inefficiency", new_here=True),
        Statement("D8", "What data inefficiency has yet to spend", "data_inefficiency"),
        Statement("D9", "One sample is enough", "data_inefficiency"),
        Statement("H1", "Which of a teacher's errors hard labels correct", "teachers"),
        Statement("H2", "When a correction turns the targets towards the truth", "teachers"),
        Statement("H3", "Mixing helps with an imperfect teacher", "teachers"),
        Statement("H4", "The best mixture, exactly", "teachers"),
        Statement("S1", "Supervision complexity is a squared norm", "supervision_complexity"),
        Statement("S2", "Rademacher complexity of a kernel ball", "supervision_complexity"),
        Statement("S3", "Margin bound through supervision complexity", "supervision_complexity"),
        Statement("S4", "Distillation bound", "supervision_complexity"),
        Statement("S5", "Multi-class margin bound", "supervision_complexity"),
        Statement("S6", "Which supervision is complex", "supervision_complexity"),
        Statement("S7", "Tightness of the certificates", "supervision_complexity", definition=True),
        Statement("S8", "Certificate to the first power", "supervision_complexity"),
        Statement("S9", "The same for several classes", "supervision_complexity"),
        Statement("T1", "Supervision complexity at extreme temperatures", "temperature_early_stopping"),
        Statement("T2", "Temperature does not act through scale", "temperature_early_stopping", new_here=True),
        Statement("T3", "Complexity is not monotone in the temperature", "temperature_early_stopping"),
        Statement("O1", "Early stopping lowers complexity if the kernels commute", "temperature_early_stopping"),
        Statement("O2", "It need not if they do not", "temperature_early_stopping", new_here=True),
        Statement("O3", "The early-stopping trade-off", "temperature_early_stopping"),
        Statement("N1", "Online and offline meet in the limit", "online_distillation"),
        Statement("N2", "Online distillation is a double filter", "online_distillation", new_here=True),
        Statement("B1", "The two papers' quantities are one", "bridge", new_here=True),
        Statement("B2", "The bound improves exactly when data inefficiency is below one", "bridge", new_here=True),
        Statement("B3", "Fast rate from data inefficiency", "bridge", new_here=True),
        Statement("W1", "Every distillation is a filter", "since"),
        Statement("W2", "A teacher can be too strong", "since"),
        Statement("W3", "A student better than its teacher", "since"),
        Statement("W4", "What kernel students cannot show", "since"),
    )
}


@dataclass(frozen=True)
class Claim:
    """What a paper's abstract (or a public review of it) says, in our words, and the statements that bear on it.

    `short` is for the map. `condition` is what it depends on according to the statements. A `doubt` is asked by a
    review: its statements answer it, and evidence counts for the doubt. `parts` are what a claim says that evidence may
    answer differently: `{what: the evidence on it}`, each an id, or an id and words of the title, `H3: better end`.
    """

    number: int
    source: str
    short: str
    text: str
    statements: tuple[str, ...]
    condition: str = ""
    doubt: bool = False
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)


_JI_ZHU, _HARUTYUNYAN, _REVIEWS = "Ji & Zhu 2020", "Harutyunyan et al. 2023", "reviews of Ji & Zhu"
CLAIMS = (
    Claim(
        1,
        _JI_ZHU,
        "A wide student is a linear model",
        "Distilling into a wide network is learning a linear model of random features.",
        ("C1", "C2"),
    ),
    Claim(
        2,
        _JI_ZHU,
        "The transfer risk is bounded",
        "The transfer risk of the student is bounded.",
        ("R1", "R2", "R3", "R4", "R5", "R6", "R7"),
    ),
    Claim(
        3,
        _JI_ZHU,
        "Data inefficiency: how hard a task is",
        "Data inefficiency measures how hard a task is.",
        ("D1", "D2", "D3", "D4", "D6", "D7", "D8", "D9"),
        parts={
            "it orders tasks": ("D9: orders tasks by their error",),
            "it orders the students of a task": ("D9: orders the students",),
            "it says more than supervision complexity": ("D9: beyond supervision complexity",),
        },
    ),
    Claim(
        4,
        _JI_ZHU,
        "Perfect teacher: soft labels help",
        "For a perfect teacher a high soft ratio is beneficial.",
        ("E2", "E3", "D5"),
        condition=(
            "By an approximation, of data inefficiency and not of the risk, a higher soft ratio helps where it "
            "lowers the share of the supervision that lies in directions not yet learnt: so it was for one smooth "
            "teacher on the circle and one network, and not for one rippled teacher."
        ),
    ),
    Claim(
        5,
        _JI_ZHU,
        "Imperfect teacher: hard labels correct",
        "For an imperfect teacher hard labels correct its wrong predictions, which explains mixing.",
        ("E1", "E4", "H1", "H2", "H3", "H4"),
        condition=(
            "Which labels are corrected is exact for every teacher; whether a mixture beats the better end is "
            "decided, corrected, for few teachers or none."
        ),
        parts={
            "hard labels raise the student's accuracy, at one temperature": ("H1",),
            "a perfect teacher gains little from a mixture, at one temperature": ("H3: made perfect",),
            "a mixture beats the better end": ("H3: the better end",),
            "a mixture beats the teacher alone": ("X5: rather than 1",),
            "a mixture beats the labels": ("X5: rather than labels",),
        },
    ),
    Claim(
        6,
        _HARUTYUNYAN,
        "The error is bounded by three terms",
        (
            "The student's error is bounded through the teacher's accuracy, the student's margin with respect "
            "to the teacher, and the complexity of the teacher's predictions."
        ),
        ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9"),
        parts={
            "labels are more complex than answers": ("X3",),
            "a teacher's answers grow complex as it learns": ("X6: complexity",),
            "while it errs less": ("X6: teacher's error",),
            "the bound of networks' answers": ("X6: the bound",),
        },
    ),
    Claim(
        7,
        _HARUTYUNYAN,
        "Stopping the teacher early is justified",
        "Early stopping of the teacher is justified.",
        ("O1", "O2", "O3"),
        condition=(
            "A stopped teacher's answers are less complex for a student whose kernel commutes with the "
            "teacher's; for another they need not be."
        ),
        parts={
            "the student errs less": ("O3: errs less", "X2", "X6: student's error", "X8"),
            "its answers are no more complex": ("O3: limit of their complexity",),
            "its bound is lower": ("X6: the bound",),
        },
    ),
    Claim(
        8,
        _HARUTYUNYAN,
        "Temperature is justified",
        "Temperature scaling is justified.",
        ("T1", "T2", "T3"),
        condition=(
            "For students that interpolate it acts by the shape that it gives to the supervision, not by its scale."
        ),
        parts={
            "the supervision is less complex": ("T3: complexity",),
            "the student errs less": ("T3: errs less", "X1", "X8"),
        },
    ),
    Claim(
        9,
        _HARUTYUNYAN,
        "Online distillation works",
        "Online distillation gives increasingly complex supervision, and works on a range of image benchmarks.",
        ("N1", "N2"),
        condition=(
            "In the kernel regime an online student is a delayed one; on two pairs of classes it was ahead where "
            "both trained until they fitted wrong labels, and behind where they trained too briefly (each case by "
            "itself; not all of them are decided once they are corrected with the rest)."
        ),
        parts={
            "supervision grows more complex": ("O3", "X3: answers grow", "X3: size divided out", "X6"),
            "and is less complex than the final teacher's": ("X3: above the online one's",),
            "it helps kernel students": ("N1",),
            "it helps networks": ("X1", "X4", "X8"),
        },
    ),
    Claim(
        10,
        _REVIEWS,
        "Doubt: practical students are small",
        "The theory needs an over-parameterised student, and practical students are small.",
        ("C2",),
        doubt=True,
    ),
    Claim(
        11,
        _REVIEWS,
        "Doubt: convergence is assumed",
        "Convergence of the student is assumed, not guaranteed.",
        ("C1", "C2"),
        doubt=True,
    ),
    Claim(
        12,
        _REVIEWS,
        "Doubt: wide is unrealistic",
        "The wide-network assumption may be unrealistic.",
        ("C2",),
        doubt=True,
    ),
    Claim(
        13,
        _REVIEWS,
        "Doubt: the bound is loose at small n",
        "The bound on the transfer risk is loose at small sample sizes.",
        (),
        condition="Asked at about 64 examples, of the bound by the angle.",
        doubt=True,
    ),
)
