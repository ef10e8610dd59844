/** How many calls the cases of this process made so far, and how often a device lied to them, for the summary. */
let operations = 0;
let hostile = 0;

export function countOperations(count: number): void {
  operations += count;
}

export function operationsSoFar(): number {
  return operations;
}

/** Counts completions and descriptors that no device should write. */
export function countHostile(count: number): void {
  hostile += count;
}

export function hostileSoFar(): number {
  return hostile;
}
