import { testRuntime } from '../suite/run.ts';

testRuntime({ name: 'Bun', command: '.bin/bun', webWorkers: true, typescript: true });
