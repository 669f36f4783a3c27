"""What the figures are called for whoever cannot see them, and what to look for in them."""

from __future__ import annotations

FIGURES = {
    "law": (
        "ΔL against rank and against length, with the fitted law",
        "What adapters learned, and the law through it. Each dot is the mean of a cell; where the lines leave the dots "
        "in one direction for a whole rank or length, the law has not that shape.",
    ),
    "collapse": (
        "Collapse of all cells onto one line",
        "If rank and length act only through x, every cell falls on one line. A rank whose dots keep to one side of it "
        "is a rank that the law gets wrong.",
    ),
    "agreement": (
        "Predicted against measured ΔL",
        "Dots on the diagonal are predicted exactly; the strip is one RMSE wide to either side. The lower panel shows "
        "the same misses enlarged.",
    ),
    "residuals": (
        "Residuals over rank and length",
        "Noise mixes the colours. Whole rows, columns or corners of one colour are a bend in the data that this law "
        "does not have.",
    ),
    "profiles": (
        "Profile likelihoods of α, β and b",
        "A lopsided or flat valley means that ± a standard error would mislead. Two bars of unlike length mean that "
        "the cells do not scatter as independent noise of one size would. Dots are where it was computed; at a kink "
        "an exponent has come to the edge of the range that is searched.",
    ),
    "ellipse": (
        "Joint 95 % ellipse of α and β",
        "A long and slanted ellipse means that the exponents can hardly be told apart, while a combination of them is "
        "well known. Where α = β crosses it, the data allow that only the ratio r/ℓ counts.",
    ),
    "extrapolation": (
        "The law beyond the measured range",
        "The bands are what the cells leave open if the form of the law is right. They cannot know of another form, so "
        "everything outside the shaded range is a bet.",
    ),
    "rivals": (
        "ΔAICc and held-out error of every form",
        "A high R² does not single out a law; these do. Left, how well each form explains the fitted cells for its "
        "number of parameters; right, how far it is off on cells that it has not seen.",
    ),
    "capacity": (
        "Capacity in bits and tokens by rank",
        "How much the adapters hold as their rank grows, beside what the literature reports for whole models.",
    ),
    "final_loss": (
        "Final loss over rank and length",
        "Inside the outline the mean loss is at or below ln 2: a token of that loss has a probability of one half.",
    ),
    "exact_match": (
        "Exact match over rank and length",
        "The share of records that come back word for word. A cell inside the outline can still be at 0, where a few "
        "stubborn tokens break every record.",
    ),
    "token_accuracy": (
        "Token accuracy over rank and length",
        "The share of answer tokens whose arg-max is right when the answer before them is given.",
    ),
    "token_accuracy_free": (
        "Free-running token accuracy over rank and length",
        "The share of answer tokens that greedy decoding writes right, position by position. After the first failure "
        "next to nothing is, so where that stands still the share falls as 1/ℓ.",
    ),
    "recall_vs_p": (
        "Share of right tokens against their probability",
        "Above ½ a token is surely the arg-max; below, that depends on how the rest is shared out.",
    ),
    "order": (
        "First token below ½ against first failure",
        "Dots on the diagonal fail at the very first token below ½.",
    ),
    "positions": ("p by position", "Which positions stay below ½, and whether a larger rank lifts them."),
    "decoupling": (
        "Loss beside recall",
        "A low mean loss without recall: the mean hides the few tokens that break everything.",
    ),
    "failures": ("Where samples fail first", "The position of the first wrong token of each sample."),
    "methods": (
        "Methods over rank",
        "Means over seeds at equal token visits. Bars that overlap do not settle a difference; the paired ones in the "
        "words do.",
    ),
}
