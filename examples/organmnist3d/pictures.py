"""The pictures of a run: curves, confusion matrix, and test volumes as one GIF."""

import numpy as np

GRID = 5  # volumes per row and per column
SIDE = 112  # pixels a volume is enlarged to
PAD = 8
LINE = 14
WHITE, RIGHT, WRONG = 249, 250, 251  # palette: greys, then a blue and an orange
PALETTE = [v for grey in range(250) for v in [round(grey * 255 / WHITE)] * 3]
PALETTE += [0, 114, 178, 213, 94, 0]


def draw_curves(path, title, history, kept):
    from matplotlib.figure import Figure

    epochs = np.arange(1, len(history) + 1)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, label, style in (
            (name, "training", "--"),
            (f"val_{name}", "validation", "-"),
        ):
            axes.plot(
                epochs, [row[key] for row in history], style, marker=".", label=label
            )
        axes.axvline(kept, color="grey", linewidth=1, label=f"kept epoch, {kept}")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def draw_confusion(path, title, labels, predicted, class_names):
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix

    ticks = range(len(class_names))
    matrix = confusion_matrix(labels, predicted, labels=list(ticks))
    side = 3.2 + 0.45 * len(class_names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix, cmap="Blues")
    axes.set_xticks(ticks, class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, class_names)
    axes.set(xlabel="predicted", ylabel="actual")
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if count > matrix.max() / 2 else "black"
        if count:
            axes.text(column, row, count, color=color, ha="center", va="center")
    figure.suptitle(f"{title}\n{len(labels)} test volumes", fontsize="medium")
    figure.savefig(path, dpi=120)


def choose(volumes, seed):
    """Returns the rows of 25 test volumes, or of all if there are fewer."""
    count = min(GRID * GRID, volumes)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(volumes, count, replace=False))


def animate_volumes(path, title, data, predicted, chosen):
    """Writes a GIF that runs through the chosen volumes, slice by slice, side by side.

    Each has its actual name and the predicted one below it. A right prediction has a
    check mark and a thin solid frame, a wrong one a cross and a thick broken frame.
    """
    names = [
        (data.class_names[data.test.labels[i]], data.class_names[predicted[i]])
        for i in chosen
    ]
    page, places = lay_out(title, names)
    frames = []
    for volume in np.moveaxis(data.test.images[chosen, ..., 0], 1, 0):
        frame = page.copy()
        for (top, left), image in zip(places, volume, strict=True):
            frame[top : top + SIDE, left : left + SIDE] = enlarge(image)
        frames.append(to_palette(frame))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=120, loop=0)


def lay_out(title, names):
    """Returns a page with all but the volumes, and the volumes' `(top, left)`."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(findfont("DejaVu Sans"), 11)
    captions = [
        (f"actual: {actual}", f"{'✓' if actual == said else '✗'} predicted: {said}")
        for actual, said in names
    ]
    widest = max(font.getlength(line) for lines in captions for line in lines)
    width = max(SIDE, int(widest) + 1) + 2 * PAD
    height = SIDE + 2 * LINE + 3 * PAD
    rows = -(-len(names) // GRID)
    size = (GRID * width, 3 * PAD + LINE + rows * height)
    image = Image.new("L", size, 255)
    draw = ImageDraw.Draw(image)
    draw.text((PAD, PAD), title, fill=0, font=font)
    places = []
    for cell, lines in enumerate(captions):
        row, column = divmod(cell, GRID)
        top, left = 2 * PAD + LINE + row * height + PAD, column * width + PAD
        places.append((top, left))
        for number, line in enumerate(lines):
            at = (left, top + SIDE + PAD // 2 + number * LINE)
            draw.text(at, line, fill=0, font=font)
    page = to_greys(image)
    for place, (actual, said) in zip(places, names, strict=True):
        frame_volume(page, *place, right=actual == said)
    return page, places


def frame_volume(page, top, left, right):
    thick = 2 if right else 4
    outer = (slice(top - thick, top + SIDE + thick),)
    outer += (slice(left - thick, left + SIDE + thick),)
    if right:
        page[outer] = RIGHT
        return
    rows, columns = np.indices(page[outer].shape) // 8
    page[outer] = np.where((rows + columns) % 2, WHITE, WRONG)


def enlarge(image):
    from PIL import Image

    size = (SIDE, SIDE)
    return to_greys(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))


def to_greys(image):
    return np.asarray(image, "uint16") * WHITE // 255


def to_palette(page):
    from PIL import Image

    image = Image.fromarray(page.astype("uint8"))
    image.putpalette(PALETTE)
    return image
