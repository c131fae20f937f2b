"""The pictures of a result's report and explanation on the page: the files themselves, with words. Draws nothing."""

from collections.abc import Iterable, Iterator

from pipeline.reports.page.blocks import Note, Picture, Section, picture
from pipeline.reports.page.gather import Result

# What a picture shows -> its alternative text, its caption. A caption says what no table beside it does.
SAID = {
    "confusion": (
        "Confusion matrix: a row a true class, a column a prediction",
        "A row a true class, a column a prediction: the stronger the colour, the more of the row went there.",
    ),
    "reliability": (
        "Accuracy over confidence, by bin, with the diagonal of a calibrated model",
        "How often the model is right when it is this sure. On the dotted line it would be calibrated; the expected "
        "calibration error is the mean distance from it. Lines are 95 % intervals of a bin's accuracy.",
    ),
    "training": (
        "Loss of training and holdout, and what the holdout is judged by, by epoch",
        "Loss and accuracy by epoch, of what is learned from and of what is held out; the weights of the dotted epoch "
        "are kept.",
    ),
    "gamma": (
        "Accuracy on seen and unseen classes over γ, and seen over unseen",
        "Accuracy on seen and unseen classes, all of them to choose from, as γ is taken from the scores of seen ones. "
        "γ was chosen on classes that a second training did not see. Right, every γ is a point of the curve, and the "
        "area below it is AUSUC.",
    ),
    "retrieval": (
        "R@1 and R@5 in both directions, by how the video was embedded",
        "How often the right one is first, or among the first five. Under its own map a video may find it by the map "
        "it was shown (the leak); under a uniform one it cannot.",
    ),
    "scores": (
        "Histograms of ID and OOD pictures by score, a row a kind of score, a column a set",
        "Pictures of known classes (ID) and others (OOD) by score. Dashed, the score that 95 % of ID reach; FPR95 is "
        "the share of OOD above it.",
    ),
    "lambda": (
        "AUROC and FPR95 over λ, a line a set",
        "AUROC and FPR95 of the evaluated pictures over λ, the weight of the local term, chosen without them.",
    ),
    "features": (
        "The feature space in two dimensions by PCA, t-SNE and UMAP, coloured by true class",
        "Near points are alike to the model; in t-SNE and UMAP distances between groups say little. Errors are ringed.",
    ),
    "importance": (
        "What the headline figure loses without each input",
        "What is lost when an input says nothing of the sample at hand. Lines are one standard deviation: over "
        "resamples of the samples where it is replaced by its mean, over permutations where samples have that of "
        "another.",
    ),
    "worst": (
        "Timelines of the worst videos: truth over prediction, wrong frames marked in red, confidence below",
        "The videos of lowest F1@50. Above what was labelled, below it what was predicted; red marks wrong frames, and "
        "the area at the bottom is the confidence. Numbers are classes, listed below the last video.",
    ),
    "best": (
        "Timelines of the best videos: truth over prediction, wrong frames marked in red, confidence below",
        "The videos of highest F1@50, drawn in the same way.",
    ),
    "overlays": (
        "Pictures of high, low and borderline scores, each with its class-activation map and its background",
        "Each picture as CLIP saw it, framed in it the patch whose evidence is λ's term, its class-activation map over "
        "it, and the background that P_align is computed from, the object left black.",
    ),
    "attention": (
        "Where the model looks in several videos, over their frames",
        "Where the model looks, frame by frame, in videos that it recognised and in videos that it did not.",
    ),
    "maps": (
        "Predicted and drawn attention maps of several videos, over their frames",
        "Where the clinician looked, and where the model predicts that one would, without having seen the map: the "
        "videos in which both agree best and worst.",
    ),
    "class_attention": (
        "Average attention of each class over the frames",
        "Attention, averaged over the videos of each class.",
    ),
    "classes": (
        "Average precision of classes with its interval",
        "Average precision by class, of the worst and the best where there are many.",
    ),
    "scatter": (
        "What was predicted over what it is, a panel a number",
        "A point an evaluated sample; on the dotted line both are the same.",
    ),
}


def still(result: Result, name: str, folder: str = "report") -> list[Picture | Note]:
    """A picture, or how its folder is made; nothing where that is made and the head has no such picture."""
    if folder not in result.pictures:
        target = f"results/{result.name}/{folder}"
        return [Note(f"{target}/pictures/{name}.png is not made yet.", target, "faint")]
    path = result.pictures[folder].get(name)
    if path is None:
        return []
    words = name.replace("_", " ")
    return [picture(path, *SAID.get(name, (f"{words} of {result.name}", f"{words}.")))]


def others(result: Result, parts: Iterable[Section]) -> Iterator[Section]:
    """A part of the pictures that are in none of these."""
    shown = {block.name for part in parts for block in part.blocks if isinstance(block, Picture)}
    rest = [(folder, name) for folder, of in result.pictures.items() for name in of if name not in shown]
    blocks = [block for folder, name in rest for block in still(result, name, folder)]
    if blocks:
        yield Section(f"{result.name}-pictures", "Pictures", blocks, contents="pictures")
