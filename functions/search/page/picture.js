// Turns a file into a query picture: upright, small enough, and without EXIF data.

const MAX_SIDE = 1600;

/** Re-encoded as a JPEG, which drops EXIF. */
export async function prepare(file, maxBytes) {
	const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
		throw new Error(`This browser cannot open ${file.name}. Save it as JPEG, PNG or WebP, and try again.`);
	});
	const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
	const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
	const canvas = Object.assign(document.createElement("canvas"), { width, height });
	const pen = canvas.getContext("2d");
	pen.fillStyle = "#fff"; // behind transparent pixels, as in the service
	pen.fillRect(0, 0, width, height);
	pen.imageSmoothingQuality = "high";
	pen.drawImage(bitmap, 0, 0, width, height);
	for (const quality of [0.9, 0.7, 0.4]) {
		const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
		if (blob.size <= maxBytes) return { blob, url: URL.createObjectURL(blob), width, height };
	}
	throw new Error("The picture cannot be made small enough to send. Choose another one.");
}

export const base64 = (blob) => new Promise((resolve) => {
	const reader = new FileReader();
	reader.onload = () => resolve(reader.result);
	reader.readAsDataURL(blob);
});
