//! One public driver per VMM over the machines that they have in common.

/// Makes a newtype of [`Machines`](super::Machines) a driver.
macro_rules! drives_machines {
    ($driver:ident) => {
        impl $driver {
            /// The file with the last part of the instance's console.
            pub fn console_log(&self, id: &casemate_lifecycle::InstanceId) -> std::path::PathBuf {
                self.0.console_log(id)
            }
        }

        #[async_trait::async_trait]
        impl crate::Driver for $driver {
            fn capabilities(&self) -> &crate::Capabilities {
                self.0.capabilities()
            }

            async fn prepare(
                &self,
                plan: &crate::Plan,
                vtpm: &dyn crate::VtpmProvisioner,
            ) -> Result<crate::Prepared, crate::DriverError> {
                self.0.prepare(plan, vtpm).await
            }

            async fn start(&self, plan: &crate::Plan) -> Result<crate::Started, crate::DriverError> {
                self.0.start(plan).await
            }

            async fn connect(&self, id: &casemate_lifecycle::InstanceId) -> Result<Box<dyn crate::Channel>, crate::DriverError> {
                self.0.connect(id).await
            }

            async fn wait(&self, id: &casemate_lifecycle::InstanceId) -> Result<crate::Exit, crate::DriverError> {
                self.0.wait(id).await
            }

            async fn kill(&self, id: &casemate_lifecycle::InstanceId) -> Result<(), crate::DriverError> {
                self.0.kill(id).await
            }

            async fn wipe(&self, id: &casemate_lifecycle::InstanceId) -> Result<crate::WipeEvidence, crate::DriverError> {
                self.0.wipe(id).await
            }

            async fn forget(&self, id: &casemate_lifecycle::InstanceId) -> Result<(), crate::DriverError> {
                self.0.forget(id).await
            }

            fn footprint(&self, id: &casemate_lifecycle::InstanceId) -> Option<crate::Footprint> {
                self.0.footprint(id)
            }

            async fn list(&self) -> Result<Vec<(casemate_lifecycle::InstanceId, crate::Presence)>, crate::DriverError> {
                self.0.list().await
            }
        }
    };
}

pub(crate) use drives_machines;
