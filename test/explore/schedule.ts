/**
 * Schedules as text: `0*12 1*3 !0 2*5 ~1 1*7` is 12 steps of worker 0, 3 of worker 1, the death of worker 0, 5 steps of
 * worker 2, a time-out of worker 1's wait, and 7 steps of worker 1.
 */

/** The scheduler's next action: a worker's number, plus one of these to kill it or to end its wait. */
export type Action = number;
export const KILL = 32;
export const TIME_OUT = 64;
export const MAX_WORKERS = 32;

export function workerOf(action: Action): number {
  return action & 31;
}

export function formatSchedule(actions: readonly Action[]): string {
  const parts: string[] = [];
  for (let at = 0; at < actions.length;) {
    const action = actions[at]!;
    if (action >= KILL) {
      parts.push(`${action >= TIME_OUT ? '~' : '!'}${String(workerOf(action))}`);
      at++;
      continue;
    }
    let end = at + 1;
    while (actions[end] === action) end++;
    parts.push(`${String(action)}*${String(end - at)}`);
    at = end;
  }
  return parts.join(' ');
}

export function parseSchedule(text: string): Action[] {
  return text.split(/\s+/).flatMap((part) => {
    if (part === '') return [];
    const run = /^(\d+)\*(\d+)$/.exec(part);
    const event = /^([!~])(\d+)$/.exec(part);
    const worker = Number(run?.[1] ?? event?.[2] ?? Number.NaN);
    if (!(worker < MAX_WORKERS)) throw new Error(`not part of a schedule: '${part}'`);
    if (run !== null) return Array.from({ length: Number(run[2]) }, () => worker);
    return [worker + (event?.[1] === '!' ? KILL : TIME_OUT)];
  });
}
