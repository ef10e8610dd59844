/** Helpers of the measured JavaScript programs. */
import { parseArgs } from 'node:util';

/** Parses numbers from the command line, `--name N`, with defaults. */
export function numbersFromArguments<N extends string>(defaults: Readonly<Record<N, number>>): Record<N, number> {
  const numbers: Record<N, number> = { ...defaults };
  const names = Object.keys(defaults) as N[];
  const { values } = parseArgs({
    options: Object.fromEntries(names.map((name) => [name, { type: 'string' as const }])),
  });
  for (const name of names) if (values[name] !== undefined) numbers[name] = Number(values[name]);
  return numbers;
}

/** Prints a value as a line of JSON for the comparison. */
export function printLine(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** Name and version of this runtime, for headings: `Node v20.20.2`, `Bun 1.3.0`. */
export function runtimeName(): string {
  const { bun, deno } = process.versions as Readonly<Record<string, string | undefined>>;
  if (bun !== undefined) return `Bun ${bun}`;
  if (deno !== undefined) return `Deno ${deno}`;
  return `Node ${process.version}`;
}
