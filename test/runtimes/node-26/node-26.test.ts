import { testRuntime } from '../suite/run.ts';

testRuntime({ name: 'Node 26', command: 'node-26/bin/node', webWorkers: false, typescript: true });
