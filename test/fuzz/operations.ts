/** How many calls the cases of this process made so far, for the summary. */
let operations = 0;

export function countOperations(count: number): void {
  operations += count;
}

export function operationsSoFar(): number {
  return operations;
}
