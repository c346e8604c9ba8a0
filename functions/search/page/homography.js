// Homographies: nine numbers, 3 × 3 row by row, between places (x, y) as shares of width and height.

/** The same in the other direction. */
export function inverse([a, b, c, d, e, f, g, h, i]) {
	const adjugate = [
		e * i - f * h, c * h - b * i, b * f - c * e,
		f * g - d * i, a * i - c * g, c * d - a * f,
		d * h - e * g, b * g - a * h, a * e - b * d,
	];
	const determinant = a * adjugate[0] + b * adjugate[3] + c * adjugate[6];
	return adjugate.map((value) => value / determinant);
}

export function apply([a, b, c, d, e, f, g, h, i], [x, y]) {
	const scale = g * x + h * y + i;
	return [(a * x + b * y + c) / scale, (d * x + e * y + f) / scale];
}

/** A CSS transform that lays an image over a frame of the same size in pixels. */
export function laidOver([a, b, c, d, e, f, g, h, i], width, height) {
	const columns = [
		a, d * height / width, 0, g / width,
		b * width / height, e, 0, h / height,
		0, 0, 1, 0,
		c * width, f * height, 0, i,
	];
	return `matrix3d(${columns.join()})`;
}

const within = (point) => point.map((share) => Math.min(1, Math.max(0, share)));

/** The corners of what both images show: in the query, and in the target. */
export function shared(transform) {
	const back = inverse(transform);
	const query = [[0, 0], [1, 0], [1, 1], [0, 1]].map((corner) => within(apply(back, corner)));
	return [query, query.map((corner) => within(apply(transform, corner)))];
}
