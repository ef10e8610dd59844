/** Runs {@link shapes} in one worker, and keeps the results. */
import type { Scenario } from '../scenario.ts';
import { shapes } from './shapes.ts';

export const outcomes: unknown[][] = [];

export const scenario: Scenario<null> = {
  setup: () => null,
  workers: [
    [
      (): void => {
        outcomes.push(shapes());
      },
    ],
  ],
  check: () => undefined,
};
