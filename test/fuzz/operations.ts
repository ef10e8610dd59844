/** Counts of calls and of invalid device writes by all cases of this process, for the summary. */
let operations = 0;
let hostile = 0;

export function countOperations(count: number): void {
  operations += count;
}

export function operationsSoFar(): number {
  return operations;
}

/** Counts completions and descriptors that violate the device's specification. */
export function countHostile(count: number): void {
  hostile += count;
}

export function hostileSoFar(): number {
  return hostile;
}
