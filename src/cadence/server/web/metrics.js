// The Prometheus text format, as much of it as the page needs.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Samples by metric name: `[{labels, value}]`. */
export function parseMetrics(text) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue; // comments and empty lines
    const [, name, labels = "", value] = found;
    if (!metrics.has(name)) metrics.set(name, []);
    const pairs = Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, text]) => [key, text]));
    metrics.get(name).push({ labels: pairs, value: Number(value.replace("Inf", "Infinity")) });
  }
  return metrics;
}

/** The sum over all labels; null when there is no such metric. */
export function total(metrics, name) {
  const samples = metrics.get(name);
  return samples ? samples.reduce((sum, { value }) => sum + value, 0) : null;
}

/**
 * The value below which `share` of a histogram's observations lie, linear inside its bucket as in
 * Prometheus' histogram_quantile; null without observations.
 */
export function quantile(metrics, name, share) {
  const sums = new Map();
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    const bound = Number(labels.le.replace("+Inf", "Infinity"));
    sums.set(bound, (sums.get(bound) ?? 0) + value);
  }
  const buckets = [...sums].sort(([a], [b]) => a - b);
  const count = buckets.at(-1)?.[1] ?? 0;
  if (count === 0) return null;
  let [low, below] = [0, 0];
  for (const [bound, upTo] of buckets) {
    if (upTo >= share * count) {
      if (bound === Infinity) return low;
      return low + (bound - low) * ((share * count - below) / Math.max(upTo - below, 1e-9));
    }
    [low, below] = [bound, upTo];
  }
  return low;
}
