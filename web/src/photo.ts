/** Pixels of a photo's longer side at most: enough to read a price tag, and ten of them still leave a phone in a day. */
const most = 2048;

/**
 * Makes a photo fit to be kept and sent: JPEG, at most 2048 pixels a side, upright. One that is so already is left as it
 * is, with what its camera wrote into it. Rejects when the browser cannot read it as a picture.
 */
export async function shrink(file: Blob): Promise<Blob> {
  const picture = await createImageBitmap(file);
  try {
    const scale = Math.min(1, most / Math.max(picture.width, picture.height));
    if (scale === 1 && file.type === "image/jpeg") return file;
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    const pen = canvas.getContext("2d");
    if (!pen) throw new Error("no canvas");
    pen.fillStyle = "#fff"; // what is transparent in a PNG
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve, reject) => canvas.toBlob((out) => (out ? resolve(out) : reject(new Error("no picture"))), "image/jpeg", 0.85));
  } finally {
    picture.close();
  }
}
