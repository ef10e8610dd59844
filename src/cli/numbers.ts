import { InvalidArgumentError } from 'commander';

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Parses bytes: `4096`, `0x1000`, `4K`, `2M`. The caller checks the range. */
export function parseBytes(text: string): number {
  const [, digits = '', unit = ''] = /^(0x[0-9a-f]+|[0-9]+)([KMG]?)$/i.exec(text) ?? [];
  const value = Number(digits) * (UNITS[unit.toUpperCase()] ?? NaN);
  if (digits === '' || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Not a byte count, such as 4096, 0x1000, 4K or 2M.');
  }
  return value;
}

/** Parses a whole number from `low` to `high`. */
export function parseCount(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < low || value > high) {
      throw new InvalidArgumentError(`Not a whole number from ${String(low)} to ${String(high)}.`);
    }
    return value;
  };
}

/** Formats bytes: `512`, `4.0K`, `16M`. */
export function formatBytes(bytes: number): string {
  const units = ['', 'K', 'M', 'G', 'T'];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${unit === 0 || value >= 10 ? String(Math.round(value)) : value.toFixed(1)}${units[unit]!}`;
}

/** Formats a duration: `12s`, `3m05s`, `2h10m`, `4d02h`. */
export function formatDuration(milliseconds: number): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 60) return `${String(seconds)}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${String(minutes)}m${two(seconds % 60)}s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24
    ? `${String(hours)}h${two(minutes % 60)}m`
    : `${String(Math.floor(hours / 24))}d${two(hours % 24)}h`;
}
