"""The 61 claims: a collection of what practitioners say about batch size, gathered in 2018.

It contradicts itself, which is the point: most contradictions are confounds of what is held equal
(epochs, updates or seconds) or of a learning rate that was not tuned.

B0 is the batch size that the user trains with now; "the large one" is 16 times, "the small one" a
sixteenth of it, as far as the data allows.
"""

from __future__ import annotations

from tfbatch.claims._claim import Claim, Criterion

_LARGEST = (
    Criterion(
        "X1",
        "log throughput of the largest size over the next one of half of it or less",
        name="throughput",
    ),
    Criterion(
        "X16",
        "log of the best other size's seconds to the target over the largest one's",
        name="time to target",
    ),
)
_SECOND_ORDER = ("conjugate gradient", "L-BFGS")

FOUNDING_DOCUMENT = (
    Claim(
        "C1",
        "as-large-as-possible",
        "As a rule, set the batch size as large as you can.",
        (
            *_LARGEST,
            Criterion(
                "X16", "margin less what the largest size loses to B0", "threshold", "metric"
            ),
        ),
    ),
    Claim(
        "C2",
        "large-helps-keypoints",
        "A large batch helps keypoint detection, by 0.3 to 0.4 points of AP.",
        (Criterion("X14", "AP of the large batch less that of the small one"),),
    ),
    Claim(
        "C3",
        "best-size-times-devices",
        "The best global batch is the efficient batch of one device times the number of devices.",
        (
            Criterion(
                "X1",
                "log throughput at the knee over the next size of half of it or less",
                name="knee",
            ),
            Criterion(
                "X15", "efficiency of devices times the knee, less 0.8", "threshold", "devices"
            ),
            Criterion(
                "X15", "share of devices times the speed of one, less 0.8", "threshold", "speed"
            ),
            Criterion(
                "X15",
                "1e-4 less the relative difference of two devices' gradient and one's",
                "exact",
                "equality",
            ),
        ),
    ),
    Claim(
        "C4",
        "20-to-64-by-input-size",
        "The batch size is between 20 and 64, depending on the size of the images.",
        (
            Criterion(
                "X13",
                "log seconds to the target that the best size of small images saves there over the "
                "best one of large images, and the reverse",
                name="best size",
            ),
            Criterion(
                "X13",
                "exponent of the images' side in the bytes of an example, less 2",
                "equivalence",
                "memory",
            ),
        ),
    ),
    Claim(
        "C5",
        "same-epochs-large-is-worse",
        "With the same number of epochs a larger batch usually ends at a worse metric.",
        tuple(
            Criterion("X4", f"metric of B0 less that of the large one, {policy} rate", name=policy)
            for policy in ("fixed", "scaled", "tuned")
        ),
    ),
    Claim(
        "C6",
        "no-algorithm-for-very-large",
        "No algorithm lets us use very large batches effectively.",
        (
            Criterion(
                "X4A",
                "half of the gap of C5 less what the best large-batch method recovers",
                "threshold",
            ),
        ),
    ),
    Claim(
        "C7",
        "large-can-match-small",
        "Within the same epochs a large batch ends at about the small batch's metric, no better.",
        (Criterion("X4", "metric of the large size less that of B0, tuned rate", "equivalence"),),
    ),
    Claim(
        "C8",
        "equal-epochs-equal-work",
        "A fixed number of epochs is a fixed number of floating-point operations.",
        (Criterion("X4", "2 % less the relative difference of operations per epoch", "exact"),),
    ),
    Claim(
        "C9",
        "full-batch-unsuited",
        "Full-batch learning does not suit large data sets.",
        (
            Criterion(
                "X8",
                "log seconds to the target of the full batch over twice the best size's",
                "threshold",
            ),
        ),
    ),
    Claim(
        "C10",
        "one-example-hardly-converges",
        "With one example in a batch the steps jostle, and convergence is hard.",
        (Criterion("X8", "success of B0 less success of batch size 1, tuned rates"),),
    ),
    Claim(
        "C11",
        "error-surface-is-a-paraboloid",
        "The error surface of a linear neuron is a paraboloid, that of a network locally one.",
        (
            Criterion("X8B", "1e-6 less the relative residual of a paraboloid", "exact", "linear"),
            Criterion(
                "X8B", "10 % less the error of the second-order expansion", "threshold", "network"
            ),
        ),
    ),
    Claim(
        "C12",
        "bigger-uses-hardware-better",
        "A bigger batch uses memory and parallel hardware better.",
        (Criterion("X1", "log throughput at 4 B0 over that at B0 (memory is not measured)"),),
    ),
    Claim(
        "C13",
        "bigger-is-faster",
        "A bigger batch needs fewer iterations per epoch and processes the same data faster.",
        (Criterion("X1", "log seconds of an epoch at B0 over those at 4 B0"),),
    ),
    Claim(
        "C14",
        "larger-is-more-accurate-direction",
        "Up to a point a larger batch gives a more accurate direction and less oscillation.",
        (
            Criterion(
                "X5",
                "-slope of log variance of the gradient over log B, less 0.8",
                "threshold",
                "direction",
            ),
            Criterion("X4", "log oscillation at B0 over that of the large one", name="oscillation"),
        ),
    ),
    Claim(
        "C15",
        "larger-needs-more-epochs",
        "A larger batch needs more epochs to reach the same metric.",
        (Criterion("X3", "log examples to the target of the large size over those of B0"),),
    ),
    Claim(
        "C16",
        "some-size-best-in-metric",
        "Some batch size between the extremes is best in the final metric.",
        tuple(
            Criterion(
                "X4", f"metric of the best size within less the better end, {axis}", name=axis
            )
            for axis in ("epochs", "updates")
        ),
    ),
    Claim(
        "C17",
        "some-size-best-in-time",
        "Some batch size between the extremes is best in the time to a given metric.",
        (
            Criterion(
                "X3",
                "log seconds of the better end over those of the best size within, less log 1.05",
                "threshold",
            ),
        ),
    ),
    Claim(
        "C18",
        "direction-stops-changing",
        "Beyond some batch size the direction of descent practically stops changing.",
        (
            Criterion(
                "X5",
                "2.5 points less the gain in alignment beyond 4 times the size that has 0.9",
                "threshold",
            ),
        ),
    ),
    Claim(
        "C19",
        "large-falls-into-sharp-minima",
        "Too large a batch falls into sharp minima and generalizes badly.",
        (
            Criterion("X6", "log largest eigenvalue, large over small", name="sharpness"),
            Criterion("X6", "metric of the small size less that of the large one", name="metric"),
        ),
    ),
    Claim(
        "C20",
        "too-small-never-converges",
        "With too small a batch training converges too slowly, or not at all in its epochs.",
        (Criterion("X3", "success of B0 less that of the smallest size, tuned rates"),),
    ),
    Claim(
        "C21",
        "small-escapes-bad-optima",
        "The noise of a small batch escapes bad local optima and saddles.",
        (
            Criterion(
                "X7T", "share of walks that leave a well, small less large", name="double well"
            ),
            Criterion("X7T", "log examples to leave a saddle, large over small", name="saddle"),
            Criterion(
                "X7N", "metric of the full batch with injected noise less without", name="injected"
            ),
        ),
    ),
    Claim(
        "C22",
        "large-stays-at-bad-optima",
        "A large batch stays confidently at bad local optima and saddles.",
        (
            Criterion(
                "X7T", "share of walks that stay in a well, large less small", name="double well"
            ),
            Criterion(
                "X7T", "share of walks that stay at a saddle, large less small", name="saddle"
            ),
            Criterion("X7", "share of runs that are stuck, large less small", name="training"),
        ),
    ),
    Claim(
        "C23",
        "tens-to-hundreds",
        "In practice the batch size is some tens to a few hundreds.",
        (
            Criterion(
                "X16", "log seconds of the best size outside 20 to 500 over the best one within"
            ),
        ),
    ),
    Claim(
        "C24",
        "decay-is-annealing",
        "A small batch with a falling learning rate is simulated annealing.",
        (
            Criterion(
                "X7", "metric with decay less that with the best constant rate", name="decay"
            ),
            Criterion(
                "X7", "metric with a growing batch less that with decay", "equivalence", "growth"
            ),
        ),
    ),
    Claim(
        "C25",
        "size-changes-speed-and-metric",
        "The batch size changes not only the speed but often the final metric.",
        (
            Criterion("X3", "log examples to the target, slowest size over fastest", name="speed"),
            Criterion("X4", "metric of the best size less that of the worst", name="metric"),
        ),
    ),
    Claim(
        "C26",
        "1000-is-worse-than-100",
        "A batch of 1000 is worse than one of 100.",
        (
            Criterion(
                "X4", "metric at 100 less that at 1000, same epochs, fixed rate", name="fixed"
            ),
            Criterion(
                "X4", "metric at 100 less that at 1000, same epochs, tuned rate", name="tuned"
            ),
            Criterion("X4", "metric at 100 less that at 1000, same updates", name="same updates"),
        ),
    ),
    Claim(
        "C27",
        "second-order-hurt-by-small",
        "Second-order methods are hurt by small batches where first-order ones are not.",
        tuple(
            Criterion(
                "X9", "log loss of a small batch over the full one, less first-order's", name=method
            )
            for method in _SECOND_ORDER
        ),
    ),
    Claim(
        "C28",
        "second-order-needs-thousands",
        "Second-order methods need batches of thousands.",
        tuple(
            Criterion(
                "X9",
                "log loss of the best batch of 1024 or fewer over the full one, less log 1.1",
                "threshold",
                method,
            )
            for method in _SECOND_ORDER
        ),
    ),
    Claim(
        "C29",
        "powers-of-two-beat-tens",
        "Powers of two (16, 32, 64, 128) are faster than multiples of 10 or 100.",
        (Criterion("X2", "log throughput of powers of two over multiples of 10, trend removed"),),
    ),
    Claim(
        "C30",
        "large-early",
        "Large batches belong to the beginning of the training.",
        (Criterion("X7", "metric of large to small less that of the best other order"),),
    ),
    Claim(
        "C31",
        "fill-the-memory",
        "Choose the largest batch that memory allows.",
        _LARGEST,
    ),
    Claim(
        "C32",
        "multiples-of-8",
        "The batch size should be a multiple of 8.",
        (Criterion("X2", "log throughput of multiples of 8 over other sizes, trend removed"),),
    ),
    Claim(
        "C33",
        "address-alignment-matters",
        "Not only the length but also the alignment of addresses in memory matters.",
        (Criterion("X2", "log seconds of a step from a misaligned buffer over an aligned one"),),
    ),
    Claim(
        "C34",
        "large-fast-but-worse-in-use",
        "A larger batch needs fewer updates and rises steadily, but its metric in use is worse.",
        (
            Criterion("X3", "log updates to the target, B0 over the large one", name="updates"),
            Criterion("X4", "log oscillation at B0 over that of the large one", name="oscillation"),
            Criterion("X4", "metric of B0 less that of the large one, same epochs", name="metric"),
        ),
    ),
    Claim(
        "C35",
        "small-slow-but-better-in-use",
        "A smaller batch is slow, oscillates and needs a lower rate, but is better in use.",
        (
            Criterion("X3", "log seconds to the target, the small one over B0", name="seconds"),
            Criterion("X4", "log oscillation of the small one over that of B0", name="oscillation"),
            Criterion(
                "M1",
                "octaves of the best rate, B0 over a quarter of it, the smallest that M1 trains",
                name="rate",
            ),
            Criterion("X4", "metric of the small one less that of B0, same epochs", name="metric"),
        ),
    ),
    Claim(
        "C36",
        "only-64-and-1",
        "It is enough to try batch sizes 64 and 1.",
        (
            Criterion(
                "X8", "margin less what the better of the two loses to the best size", "threshold"
            ),
        ),
    ),
    Claim(
        "C37",
        "probe-with-a-part",
        "A few batches of a part of the data tell which batch size is suitable.",
        (
            Criterion("X12", "rank correlation of early and final metric", name="ranking"),
            Criterion("X12", "margin less what the early choice loses", "threshold", "regret"),
        ),
    ),
    Claim(
        "C38",
        "feed-the-hardware",
        "The main criterion is to feed the hardware: the largest that fits comes first.",
        _LARGEST,
    ),
    Claim(
        "C39",
        "stuck-so-reduce",
        "Where noise is lacking, at a saddle or a local minimum, reduce the batch.",
        (Criterion("X7", "metric of the branch with a quarter of the batch less no change"),),
    ),
    Claim(
        "C40",
        "noisy-so-raise-or-decay",
        "Where noise is excessive raise the batch, or reduce the learning rate.",
        (
            Criterion(
                "X7", "metric of the branch with 4 times the batch less no change", name="batch"
            ),
            Criterion(
                "X7", "metric of the branch with a quarter of the rate less no change", name="rate"
            ),
            Criterion("X7", "metric of the one branch less the other", "equivalence", "alike"),
        ),
    ),
    Claim(
        "C41",
        "noise-early-low-rate-late",
        "Batch noise gives fast descent first; a low rate removes it for convergence.",
        (
            Criterion("X7", "metric with decay less that with the best constant rate", name="end"),
            Criterion("X7", "early metric with batch noise less that with less", name="early"),
        ),
    ),
    Claim(
        "C42",
        "sample-noise-always-sufficient",
        "As long as the batch is not too big, the noise of the samples is sufficient.",
        (Criterion("X5", "smallest log of the noise scale over B0 during training", "threshold"),),
    ),
    Claim(
        "C43",
        "cpu-dislikes-powers-of-two",
        "CPUs dislike arrays of 16, 32 or 64.",
        (Criterion("X2", "log throughput of the neighbors over 16, 32 and 64, trend removed"),),
    ),
    Claim(
        "C44",
        "gpu-wants-multiples-of-32",
        "On GPUs multiples of 32 are best.",
        (Criterion("X2", "log throughput of multiples of 32 over other sizes, trend removed"),),
    ),
    Claim(
        "C45",
        "choose-casually",
        "The exact batch size does not matter much: choose it casually.",
        (
            Criterion("X2", "log throughput of powers of two over others", "equivalence", "speed"),
            Criterion("X4", "metric at 60 less that at 64, same rate", "equivalence", "metric"),
        ),
    ),
    Claim(
        "C46",
        "full-batch-is-a-mini-batch",
        "A full batch is just a special case of a mini-batch.",
        (Criterion("X8", "1e-4 less the relative difference of the two gradients", "exact"),),
    ),
    Claim(
        "C47",
        "larger-is-closer-to-true-gradient",
        "The larger the batch, the closer each gradient is to the true one.",
        (Criterion("X5", "-slope of log squared distance to the full gradient over log B"),),
    ),
    Claim(
        "C48",
        "small-avoids-redundancy",
        "Small batches avoid the redundancy among samples.",
        (
            Criterion("X5D", "efficiency per example, small less large", name="efficiency"),
            Criterion(
                "X5D", "log examples, full over small batch, of 4 copies over one", name="copies"
            ),
        ),
    ),
    Claim(
        "C49",
        "no-need-for-powers-of-two",
        "There is no fixed pattern: a power of two is not needed.",
        (Criterion("X2", "log throughput of powers of two over others", "equivalence"),),
    ),
    Claim(
        "C50",
        "weigh-and-choose",
        "Weigh hardware, gradient quality and redundancy, and choose.",
        (Criterion("X16", "10 % less what the predicted size loses to the best one", "threshold"),),
    ),
    Claim(
        "C51",
        "bigger-is-better-at-the-same-rate",
        "A larger batch oscillates less, converges faster and ends better at the same rate.",
        (
            Criterion("X4", "log oscillation at B0 over that of the large one", name="oscillation"),
            Criterion("X3", "log seconds to the target, B0 over the large one", name="seconds"),
            Criterion("X4", "metric of the large one less that of B0, fixed rate", name="metric"),
        ),
    ),
    Claim(
        "C52",
        "deeper-needs-larger",
        "At a batch of 32 AlexNet begins to converge and GoogLeNet does not; a larger one helps.",
        (Criterion("X10", "octaves between the smallest converging batches of the two"),),
    ),
    Claim(
        "C53",
        "sgd-has-no-guarantee",
        "SGD has no such clear guarantee of convergence as the full batch.",
        (
            Criterion(
                "X8", "share of updates that lower the loss after a training, full batch less SGD"
            ),
        ),
    ),
    Claim(
        "C54",
        "too-small-unstable",
        "Too small a batch converges unstably and ends badly.",
        (
            Criterion(
                "X3", "success of B0 less that of the smallest size, fixed rate", name="success"
            ),
            Criterion(
                "X10", "failures to begin at batch size 4 less those at 32", name="deep nets"
            ),
        ),
    ),
    Claim(
        "C55",
        "too-large-loses-randomness",
        "Too large a batch reduces the randomness that helps.",
        (
            Criterion("X5", "share of noise in the gradient, small less large", name="noise"),
            Criterion(
                "X7N", "metric of the full batch with injected noise less without", name="injected"
            ),
        ),
    ),
    Claim(
        "C56",
        "small-data-try-both",
        "On ImageNet people fill the memory; on smaller data try both large and small.",
        (
            Criterion(
                "X16N",
                "log seconds to the target that the best size of all the data saves there over the "
                "best one of a quarter, and the reverse",
                name="growth",
            ),
            Criterion(
                "X16N",
                "metric of the best size less that of the worst, a quarter of the data",
                name="both",
            ),
        ),
    ),
    Claim(
        "C57",
        "normalization-repairs-few-updates",
        "With batch normalization the fewer updates of a large batch hardly matter.",
        (Criterion("X11", "gap of the large batch without normalization less that with it"),),
    ),
    Claim(
        "C58",
        "normalization-needs-large",
        "With batch normalization the batch must not be too small.",
        (Criterion("X11", "loss by a batch of 2, batch normalization less group normalization"),),
    ),
    Claim(
        "C59",
        "data-matters-more",
        "The distribution of the data and its preprocessing matter more than such tricks.",
        (Criterion("X17", "range of the effects of the data less that of batch sizes"),),
    ),
    Claim(
        "C60",
        "normalization-has-limits",
        "Batch normalization works badly at small batches and in recurrent nets.",
        (
            Criterion("X11", "loss by a batch of 2, batch less group normalization", name="small"),
            Criterion(
                "X18", "metric of a recurrent net without it less that with it", name="recurrent"
            ),
        ),
    ),
    Claim(
        "C61",
        "smaller-generalizes-better",
        "A smaller batch generalizes better.",
        tuple(
            Criterion("X4", f"loss of metric from smallest to largest size, same {axis}", name=axis)
            for axis in ("epochs", "updates")
        ),
    ),
)
